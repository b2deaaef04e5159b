//! Recorders that come late, or panic.

use crate::fake::{Fake, Takes, ask};
use crate::recorded::Recorder;
use crate::recorded::Value::Counter;
use limiter_core::{Backend, Memory, Observe, ObserveTrips};
use metrics::{Counter as Handle, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use metrics_util::debugging::DebuggingRecorder;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn one_that_is_installed_late_is_told_what_comes_then() {
    let layer = Observe::new(ObserveTrips::new(Fake::admitting(Takes::So(Duration::from_millis(1)))));
    for _ in 0..3 {
        assert!(layer.decide(&[ask("late")]).await[0].is_ok());
    }
    let recorder = Recorder::new();
    assert!(layer.decide(&[ask("late")]).await[0].is_ok());
    let allowed = r#"limiter_decisions_total{rule="late",store="fake",origin="store",outcome="allowed"}"#;
    let taken = recorder.take();
    assert_eq!(taken[allowed], Counter(1));
    assert!(taken.keys().any(|series| series.starts_with("limiter_trip_seconds")));
}

/// As a filter leaves them out.
struct WithoutHistograms(DebuggingRecorder);

impl metrics::Recorder for WithoutHistograms {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.0.describe_counter(name, unit, text);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.0.describe_gauge(name, unit, text);
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Handle {
        self.0.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.0.register_gauge(key, metadata)
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn one_without_histograms_is_told_the_rest() {
    let recorder = WithoutHistograms(DebuggingRecorder::new());
    let layer = Observe::new(Memory::new());
    metrics::with_local_recorder(&recorder, || {
        assert!(layer.decide_now(&ask("filtered")).is_some());
    });
    let told = recorder.0.snapshotter().snapshot().into_vec();
    let names: Vec<&str> = told.iter().map(|(key, ..)| key.key().name()).collect();
    assert!(
        names.contains(&"limiter_decisions_total") && names.contains(&"limiter_memory_keys"),
        "{names:?}"
    );
}

/// Panics at every turn, without the hook, which would print it.
struct Panicking {
    /// Or only when a handle is used.
    hands_out: bool,
}

fn panics() -> ! {
    std::panic::resume_unwind(Box::new("the recorder panics"))
}

impl metrics::CounterFn for Panicking {
    fn increment(&self, _value: u64) {
        panics()
    }

    fn absolute(&self, _value: u64) {
        panics()
    }
}

impl metrics::GaugeFn for Panicking {
    fn increment(&self, _value: f64) {
        panics()
    }

    fn decrement(&self, _value: f64) {
        panics()
    }

    fn set(&self, _value: f64) {
        panics()
    }
}

impl metrics::HistogramFn for Panicking {
    fn record(&self, _value: f64) {
        panics()
    }
}

impl metrics::Recorder for Panicking {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Handle {
        if self.hands_out { Handle::from_arc(Arc::new(Self { hands_out: true })) } else { panics() }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        if self.hands_out { Gauge::from_arc(Arc::new(Self { hands_out: true })) } else { panics() }
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        if self.hands_out { Histogram::from_arc(Arc::new(Self { hands_out: true })) } else { panics() }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_panics_costs_no_answer() {
    for hands_out in [false, true] {
        let recorder = Panicking { hands_out };
        let _guard = metrics::set_default_local_recorder(&recorder);
        let layer = Observe::new(ObserveTrips::new(Fake::admitting(Takes::So(Duration::from_millis(1)))));
        for _ in 0..3 {
            assert!(layer.decide(&[ask("user")]).await[0].is_ok());
            layer.report(&mut |_| {});
        }
        let layer = Observe::new(Fake::admitting(Takes::Nothing));
        assert!(layer.decide_now(&ask("user")).is_some());
    }
}
