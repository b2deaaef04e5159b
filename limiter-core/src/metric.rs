//! The metrics: their names, types, units and labels, in one table.
//!
//! [`Observe`](crate::Observe) and [`ObserveTrips`](crate::ObserveTrips) hand them to whatever recorder of the
//! [`metrics`](https://docs.rs/metrics) crate the application has installed, such as `metrics-exporter-prometheus`.
//!
//! | name | type | unit | labels | what it says |
//! |---|---|---|---|---|
//! | `limiter_decisions_total` | counter | decisions | `rule`, `store`, `origin`, `outcome` | what each rule decided; a peek is no decision |
//! | `limiter_errors_total` | counter | requests | `rule`, `store`, `kind` | requests without an answer, under each of their rules |
//! | `limiter_decision_seconds` | histogram | seconds | `store` | how long a caller waited; an answer that needs no wait is not in it |
//! | `limiter_trip_seconds` | histogram | seconds | `store`, `operation` | how long the store took for a trip |
//! | `limiter_trip_requests` | histogram | requests | `store` | how many requests a trip carried |
//! | `limiter_trip_errors_total` | counter | trips | `store`, `kind` | trips that failed, in whole or in part |
//! | `limiter_queued_requests` | gauge | requests | `store` | requests that wait for a trip |
//! | `limiter_in_flight_requests` | gauge | requests | `store` | requests on their way to the store and back |
//! | `limiter_breakers` | gauge | parts | `store`, `state` | parts of the store by the state of their breaker |
//! | `limiter_breaker_openings_total` | counter | openings | `store` | how often a breaker that was closed opened |
//! | `limiter_degraded` | gauge | limiters | `store` | whether decisions are made without the store now, or were within the last minute and none since: 0 or 1 per limiter |
//! | `limiter_degraded_seconds_total` | counter | seconds | `store` | for how long decisions were made without the store, in whole seconds: from each to the next, a second at most |
//! | `limiter_degraded_errors_total` | counter | errors | `store`, `kind` | errors that were answered by a decision without the store |
//! | `limiter_remembered_denials` | gauge | denials | `store` | denials that are remembered in this process |
//! | `limiter_memory_keys` | gauge | keys | `store` | keys with a state of their own in the in-process store |
//! | `limiter_memory_shared_states` | gauge | states | `store` | overflow states, each shared by many keys |
//! | `limiter_memory_log_entries` | gauge | entries | `store` | entries of all sliding window logs |
//! | `limiter_memory_shared_admissions_total` | counter | admissions | `store` | admissions that found no room for one more key |
//! | `limiter_memory_evictions_total` | counter | states | `store` | states dropped, each of them as if never used |
//! | `limiter_corrupt_states_total` | counter | states | `store` | what was found in a state's place and is none |
//! | `limiter_cas_tries_total` | counter | tries | `store` | writes by compare-and-swap, lost ones among them |
//! | `limiter_cas_conflicts_total` | counter | tries | `store` | writes by compare-and-swap that were lost to somebody else's |
//! | `limiter_clock_skew_seconds` | gauge | seconds | `store` | how far this process's clock is from the store's |
//!
//! The values of labels come from closed sets:
//!
//! | label | values |
//! |---|---|
//! | `rule` | the names of the configured rules; rules of one name in several namespaces are one |
//! | `store` | the names of the stores, [`Backend::name`](crate::Backend::name): `memory`, `redis`, `postgres`, .. |
//! | `origin` | `store`, `remembered` (a remembered denial), `degraded` (this process alone) |
//! | `outcome` | `allowed`, `denied`, `withheld` (admitted by this rule, and denied by another of the request) |
//! | `kind` | `config`, `unavailable`, `timeout`, `overloaded`, `contention`, `corrupt`, `unexpected`, `dropped` (whoever asked left before the answer) |
//! | `operation` | `decide`, `reset`, `ready` |
//! | `state` | `closed`, `open`, `recovering` |
//!
//! No caller's key is among them, so that no stream of keys makes new series.
//!
//! Exporters that need the bounds of a histogram's buckets: [`SECONDS_BUCKETS`] and [`REQUESTS_BUCKETS`].

use crate::error::ErrorKind;
use ::metrics::{Key, Label, Level, Metadata, Unit};

/// A metric: its name, its type, and the names of its labels.
#[derive(Debug)]
pub struct Metric {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
}

/// How the values of a metric go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A total, which only grows.
    Counter,
    /// What there is now.
    Gauge,
    /// How values are distributed.
    Histogram,
}

/// Makes the statics, and the list of them all.
macro_rules! metrics {
    ($($name:ident: $kind:ident $text:literal in $unit:ident by [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = concat!("`", $text, "`: ", $help, ".")]
            pub static $name: Metric = Metric {
                name: $text,
                kind: Kind::$kind,
                unit: Unit::$unit,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All of them, in the order of the table.
        pub static ALL: &[&Metric] = &[$(&$name),*];
    };
}

metrics! {
    DECISIONS: Counter "limiter_decisions_total" in Count by ["rule", "store", "origin", "outcome"],
        "what each rule decided";
    ERRORS: Counter "limiter_errors_total" in Count by ["rule", "store", "kind"],
        "requests without an answer, under each of their rules";
    DECISION_SECONDS: Histogram "limiter_decision_seconds" in Seconds by ["store"],
        "how long a caller waited";
    TRIP_SECONDS: Histogram "limiter_trip_seconds" in Seconds by ["store", "operation"],
        "how long the store took for a trip";
    TRIP_REQUESTS: Histogram "limiter_trip_requests" in Count by ["store"],
        "how many requests a trip carried";
    TRIP_ERRORS: Counter "limiter_trip_errors_total" in Count by ["store", "kind"],
        "trips that failed, in whole or in part";
    QUEUED_REQUESTS: Gauge "limiter_queued_requests" in Count by ["store"],
        "requests that wait for a trip";
    IN_FLIGHT_REQUESTS: Gauge "limiter_in_flight_requests" in Count by ["store"],
        "requests on their way to the store and back";
    BREAKERS: Gauge "limiter_breakers" in Count by ["store", "state"],
        "parts of the store by the state of their breaker";
    BREAKER_OPENINGS: Counter "limiter_breaker_openings_total" in Count by ["store"],
        "how often a breaker that was closed opened";
    DEGRADED: Gauge "limiter_degraded" in Count by ["store"],
        "whether decisions are made without the store now";
    DEGRADED_SECONDS: Counter "limiter_degraded_seconds_total" in Seconds by ["store"],
        "for how long decisions were made without the store";
    DEGRADED_ERRORS: Counter "limiter_degraded_errors_total" in Count by ["store", "kind"],
        "errors that were answered by a decision without the store";
    REMEMBERED_DENIALS: Gauge "limiter_remembered_denials" in Count by ["store"],
        "denials that are remembered in this process";
    MEMORY_KEYS: Gauge "limiter_memory_keys" in Count by ["store"],
        "keys with a state of their own in the in-process store";
    MEMORY_SHARED_STATES: Gauge "limiter_memory_shared_states" in Count by ["store"],
        "overflow states, each shared by many keys";
    MEMORY_LOG_ENTRIES: Gauge "limiter_memory_log_entries" in Count by ["store"],
        "entries of all sliding window logs";
    MEMORY_SHARED_ADMISSIONS: Counter "limiter_memory_shared_admissions_total" in Count by ["store"],
        "admissions that found no room for one more key";
    MEMORY_EVICTIONS: Counter "limiter_memory_evictions_total" in Count by ["store"],
        "states dropped, each of them as if never used";
    CORRUPT_STATES: Counter "limiter_corrupt_states_total" in Count by ["store"],
        "what was found in a state's place and is none";
    CAS_TRIES: Counter "limiter_cas_tries_total" in Count by ["store"],
        "writes by compare-and-swap, lost ones among them";
    CAS_CONFLICTS: Counter "limiter_cas_conflicts_total" in Count by ["store"],
        "writes by compare-and-swap that were lost to somebody else's";
    CLOCK_SKEW: Gauge "limiter_clock_skew_seconds" in Seconds by ["store"],
        "how far this process's clock is from the store's";
}

/// Bounds of buckets for histograms of seconds: from a tenth of a millisecond, a quick trip, to a second.
pub const SECONDS_BUCKETS: [f64; 13] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// Bounds of buckets for [`TRIP_REQUESTS`].
pub const REQUESTS_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

impl Metric {
    /// The name, as a recorder gets it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// How its values go together.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The names of its labels.
    #[must_use]
    pub const fn labels(&self) -> &'static [&'static str] {
        self.labels
    }

    /// What it says.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        self.help
    }

    /// Whether its values are times: figures of it are microseconds, and it is exported in seconds.
    #[must_use]
    pub fn is_time(&self) -> bool {
        self.unit == Unit::Seconds
    }

    /// A series of it: the values of its labels, in order.
    pub(crate) fn key(&self, values: &[&'static str]) -> Key {
        let labels = self.labels.iter().zip(values);
        Key::from_parts(
            self.name,
            labels.map(|(name, value)| Label::from_static_parts(name, value)).collect::<Vec<_>>(),
        )
    }

    fn describe(&self) {
        ::metrics::with_recorder(|recorder| {
            let (name, unit, help) = (self.name.into(), Some(self.unit), self.help.into());
            match self.kind {
                Kind::Counter => recorder.describe_counter(name, unit, help),
                Kind::Gauge => recorder.describe_gauge(name, unit, help),
                Kind::Histogram => recorder.describe_histogram(name, unit, help),
            }
        });
    }
}

/// Tells the recorder what each of them means.
pub(crate) fn describe_all() {
    ALL.iter().for_each(|metric| metric.describe());
}

/// What a recorder may filter by.
pub(crate) static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// A number that a store or a layer [reports](crate::Backend::report).
///
/// # Units
/// Whole microseconds of a [metric of time](Metric::is_time), else a count. A counter's is the total so far.
#[derive(Clone, Copy, Debug)]
#[must_use = "a figure is there to be told"]
pub struct Figure {
    pub(crate) metric: &'static Metric,
    pub(crate) store: &'static str,
    pub(crate) label: Option<&'static str>,
    pub(crate) value: u64,
}

impl Figure {
    /// A figure of this metric, which is no histogram, about this store.
    pub const fn new(metric: &'static Metric, store: &'static str, value: u64) -> Self {
        Self { metric, store, label: None, value }
    }

    /// The figure with the value of its metric's label `state`.
    pub const fn in_state(self, state: &'static str) -> Self {
        Self { label: Some(state), ..self }
    }

    /// The figure with the value of its metric's label `kind`.
    pub const fn of_kind(self, kind: ErrorKind) -> Self {
        Self { label: Some(kind.name()), ..self }
    }

    /// The metric.
    #[must_use]
    pub const fn metric(&self) -> &'static Metric {
        self.metric
    }

    /// The store that it is about.
    #[must_use]
    pub const fn store(&self) -> &'static str {
        self.store
    }

    /// The value of its metric's other label, `state` or `kind`, if it has one.
    #[must_use]
    pub const fn label(&self) -> Option<&'static str> {
        self.label
    }

    /// The value: whole microseconds or a count.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the table above.
    fn rows() -> Vec<Vec<String>> {
        let cells = |line: &str| line.split('|').skip(1).map(|cell| cell.trim().replace('`', "")).collect();
        let table = include_str!("metric.rs").lines().filter(|line| line.starts_with("//! | `limiter_"));
        table.map(cells).collect()
    }

    #[test]
    fn the_table_is_what_there_is() {
        let rows = rows();
        assert_eq!(rows.len(), ALL.len());
        for (row, metric) in rows.iter().zip(ALL) {
            assert_eq!(row[0], metric.name);
            assert_eq!(row[1], format!("{:?}", metric.kind).to_lowercase(), "{}", metric.name);
            assert_eq!(row[2] == "seconds", metric.is_time(), "{}", metric.name);
            assert_eq!(row[3], metric.labels.join(", "), "{}", metric.name);
            assert!(row[4].contains(metric.help.split(',').next().unwrap_or_default()), "{}", metric.name);
        }
    }

    #[test]
    fn names_say_type_and_unit() {
        for metric in ALL {
            let name = metric.name;
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert_eq!(name.trim_end_matches("_total").ends_with("_seconds"), metric.is_time(), "{name}");
        }
    }
}
