//! What the layers below report, handed to the recorder as differences, so that several limiters add up.

use super::handles::quietly;
use crate::metric::{Figure, Kind, METADATA, Metric};
use crate::time::{Every, Timestamp};
use ::metrics::{Counter, Gauge};
use parking_lot::Mutex;
use std::time::Duration;

/// Between two samples that are not asked for.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Gauges {
    every: Every,
    /// As many as the backend has figures.
    series: Mutex<Vec<Series>>,
}

struct Series {
    metric: &'static Metric,
    store: &'static str,
    label: Option<&'static str>,
    handle: Handle,
    /// The value that the recorder knows, and the one that is being summed up.
    known: u64,
    sum: u64,
}

enum Handle {
    Total(Counter),
    /// Of a count, which adds up over limiters.
    Now(Gauge),
    /// Of a time, which does not.
    Last(Gauge),
}

impl Gauges {
    #[inline]
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.every.is_due(PAUSE, now)
    }

    /// Tells the recorder what `report` does.
    pub(super) fn sample(&self, report: impl Fn(&mut dyn FnMut(Figure))) {
        sample(&mut self.series.lock(), report);
    }

    /// The same, unless somebody is at it.
    pub(super) fn sample_if_free(&self, report: impl Fn(&mut dyn FnMut(Figure))) {
        if let Some(mut series) = self.series.try_lock() {
            sample(&mut series, report);
        }
    }
}

fn sample(all: &mut Vec<Series>, report: impl Fn(&mut dyn FnMut(Figure))) {
    all.iter_mut().for_each(|series| series.sum = 0);
    report(&mut |figure| {
        let known = all.iter().position(|series| series.is_of(&figure));
        let place = known.or_else(|| {
            all.push(Series::new(&figure)?);
            Some(all.len() - 1)
        });
        if let Some(series) = place.and_then(|place| all.get_mut(place)) {
            series.add(figure.value);
        }
    });
    all.iter_mut().for_each(Series::tell);
}

impl Series {
    /// `None`: a histogram has no figures.
    fn new(figure: &Figure) -> Option<Self> {
        let &Figure { metric, store, label, .. } = figure;
        let labels: Vec<_> = [Some(store), label].into_iter().flatten().collect();
        let key = metric.key(&labels);
        let handle = ::metrics::with_recorder(|recorder| match metric.kind() {
            Kind::Counter => Some(Handle::Total(recorder.register_counter(&key, &METADATA))),
            Kind::Gauge if metric.is_time() => Some(Handle::Last(recorder.register_gauge(&key, &METADATA))),
            Kind::Gauge => Some(Handle::Now(recorder.register_gauge(&key, &METADATA))),
            Kind::Histogram => None,
        })?;
        Some(Self { metric, store, label, handle, known: 0, sum: 0 })
    }

    fn is_of(&self, figure: &Figure) -> bool {
        std::ptr::eq(self.metric, figure.metric) && self.store == figure.store && self.label == figure.label
    }

    fn add(&mut self, value: u64) {
        self.sum = match self.handle {
            Handle::Last(_) => self.sum.max(value),
            Handle::Total(_) | Handle::Now(_) => self.sum.saturating_add(value),
        };
    }

    fn tell(&mut self) {
        match &self.handle {
            Handle::Total(counter) => {
                // A counter holds whole seconds.
                let unit = if self.metric.is_time() { 1_000_000 } else { 1 };
                self.sum = self.sum.max(self.known);
                counter.increment(self.sum / unit - self.known / unit);
            }
            Handle::Now(gauge) => gauge.increment(exported(self.sum) - exported(self.known)),
            Handle::Last(gauge) => gauge.set(Duration::from_micros(self.sum).as_secs_f64()),
        }
        self.known = self.sum;
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        if let Handle::Now(gauge) = &self.handle {
            quietly(|| gauge.decrement(exported(self.known)));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a double; counts stay below 2^53")]
fn exported(count: u64) -> f64 {
    count as f64
}
