//! What a recorder was told.

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use std::collections::BTreeMap;

/// A recorder of this thread, for as long as the test runs.
pub(crate) struct Recorder {
    recorder: &'static DebuggingRecorder,
    _guard: metrics::LocalRecorderGuard<'static>,
}

/// Values by series, which are written as Prometheus does: `name{label="value"}`, in the table's order of labels.
pub(crate) type Values = BTreeMap<String, Value>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(Vec<f64>),
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let recorder: &'static DebuggingRecorder = Box::leak(Box::default());
        Self { recorder, _guard: metrics::set_default_local_recorder(recorder) }
    }

    /// What it was told since the last call, of all series that there are.
    pub(crate) fn take(&self) -> Values {
        let taken = self.recorder.snapshotter().snapshot().into_vec();
        let named = taken.into_iter().map(|(key, unit, help, value)| {
            assert!(unit.is_some() && help.is_some(), "{key:?} is not described");
            let labels = key.key().labels().map(|label| format!("{}={:?}", label.key(), label.value()));
            let labels = labels.collect::<Vec<_>>().join(",");
            let value = match value {
                DebugValue::Counter(total) => Value::Counter(total),
                DebugValue::Gauge(now) => Value::Gauge(now.0),
                DebugValue::Histogram(values) => {
                    Value::Histogram(values.into_iter().map(|value| value.0).collect())
                }
            };
            (format!("{}{{{labels}}}", key.key().name()), value)
        });
        named.collect()
    }

    /// The same without what is zero.
    pub(crate) fn changes(&self) -> Values {
        let changed = |value: &Value| match value {
            Value::Counter(total) => *total > 0,
            Value::Gauge(now) => *now != 0.0,
            Value::Histogram(values) => !values.is_empty(),
        };
        self.take().into_iter().filter(|(_, value)| changed(value)).collect()
    }
}

/// Values of series, as a test expects them.
pub(crate) fn values<const N: usize>(expected: [(&str, Value); N]) -> Values {
    expected.into_iter().map(|(series, value)| (series.to_owned(), value)).collect()
}
