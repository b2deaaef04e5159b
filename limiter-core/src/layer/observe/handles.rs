//! Handles of metrics, made once there is a recorder.

use crate::metric::{self, METADATA, Metric};
use ::metrics::{Counter, Histogram, IntoF64, Key};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What is made when it is first needed with a recorder installed: a handle that was made before would do nothing for
/// ever.
pub(super) struct Handles<T> {
    made: OnceLock<T>,
    /// The histogram by which a recorder is looked for, and for one that takes none, a gauge; made here, as looking allocates
    /// nothing.
    timer: Key,
    gauge: Key,
    /// Where the recorder is that did not listen the last time, as the one that there is without any other.
    deaf: AtomicUsize,
}

impl<T> Handles<T> {
    pub(super) fn new(timer: Key, store: &'static str) -> Self {
        let gauge = metric::DEGRADED.key(&[store]);
        Self { made: OnceLock::new(), timer, gauge, deaf: AtomicUsize::new(0) }
    }

    #[inline]
    pub(super) fn get(&self, make: impl FnOnce(Timer) -> T) -> Option<&T> {
        match self.made.get() {
            Some(made) => Some(made),
            None if self.deaf.load(Ordering::Relaxed) == recorder() => None,
            None => self.make(make),
        }
    }

    #[inline(never)]
    fn make(&self, make: impl FnOnce(Timer) -> T) -> Option<&T> {
        quietly(|| {
            let timer = Timer::new(&self.timer);
            if timer.is_live() || is_live(&self.gauge) {
                self.made.get_or_init(|| make(timer));
            } else {
                self.deaf.store(recorder(), Ordering::Relaxed);
            }
        });
        self.made.get()
    }
}

/// Where the present recorder is.
#[inline]
fn recorder() -> usize {
    ::metrics::with_recorder(|recorder| std::ptr::from_ref(recorder).addr())
}

/// A histogram of durations.
pub(super) struct Timer(Histogram);

impl Timer {
    pub(super) fn new(key: &Key) -> Self {
        Self(::metrics::with_recorder(|recorder| recorder.register_histogram(key, &METADATA)))
    }

    #[inline]
    pub(super) fn record(&self, duration: Duration, count: usize) {
        if count == 1 { self.0.record(duration) } else { self.0.record_many(duration, count) }
    }

    /// Whether a recorder listens. A value is converted only for one that does; it is recorded no times.
    fn is_live(&self) -> bool {
        let asked = Cell::new(false);
        self.0.record_many(Asked(&asked), 0);
        asked.get()
    }
}

/// Whether a recorder listens to a gauge, which stays as it is.
fn is_live(gauge: &Key) -> bool {
    let asked = Cell::new(false);
    ::metrics::with_recorder(|recorder| recorder.register_gauge(gauge, &METADATA)).increment(Asked(&asked));
    asked.get()
}

struct Asked<'a>(&'a Cell<bool>);

impl IntoF64 for Asked<'_> {
    fn into_f64(self) -> f64 {
        self.0.set(true);
        0.0
    }
}

pub(super) fn counter(metric: &Metric, labels: &[&'static str]) -> Counter {
    let key = metric.key(labels);
    ::metrics::with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
}

pub(super) fn histogram(metric: &Metric, labels: &[&'static str]) -> Histogram {
    let key = metric.key(labels);
    ::metrics::with_recorder(|recorder| recorder.register_histogram(&key, &METADATA))
}

/// Tells a recorder, whose panics are not the caller's.
#[inline]
pub(super) fn quietly(tell: impl FnOnce()) {
    // Unwind safe: what a panic can leave behind is a number that was not told.
    let _panicked = catch_unwind(AssertUnwindSafe(tell));
}
