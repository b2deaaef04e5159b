//! Latencies, and what they say of the limiter.

use hdrhistogram::{CreationError, Histogram};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Latencies that many tasks record.
pub(crate) struct Latency(Mutex<Histogram<u64>>);

impl Latency {
    /// From a nanosecond to a minute, to three digits.
    pub(crate) fn new() -> Result<Self, CreationError> {
        Ok(Self(Mutex::new(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)))
    }

    pub(crate) fn record(&self, took: Duration) {
        self.lock().saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Count, median, 99th percentile and maximum, times in microseconds.
    fn summary(&self) -> (u64, [f64; 3]) {
        let all = self.lock();
        let nanos = [all.value_at_quantile(0.5), all.value_at_quantile(0.99), all.max()];
        (all.len(), nanos.map(|nanos| Duration::from_nanos(nanos).as_secs_f64() * 1e6))
    }
}

/// What was measured, in words that say where.
pub(crate) fn report(decisions: &Latency, limited: &Latency, unlimited: &Latency) -> String {
    let row = |what: &str, latency: &Latency| {
        let (count, [p50, p99, max]) = latency.summary();
        format!("  {what:<58} {count:>7} {p50:>9.1} {p99:>9.1} {max:>9.1}\n")
    };
    let ((_, [with_p50, with_p99, _]), (_, [without_p50, without_p99, _])) =
        (limited.summary(), unlimited.summary());
    let mut text = format!(
        "latency that the limiter added, in us {:>30} {:>9} {:>9} {:>9}\n",
        "samples", "p50", "p99", "max"
    );
    text += &row("in the service: deciding all three rules, whole run", decisions);
    text += &row("at the client: a limited route, asked by faker", limited);
    text += &row("at the client: /unlimited, asked by faker in turn with it", unlimited);
    text += &format!(
        "  {:<66} {:>+9.1} {:>+9.1}\n",
        "difference at the client",
        with_p50 - without_p50,
        with_p99 - without_p99
    );
    text += &format!(
        "  {:<66} {:>9} {:>9}\n",
        "ratio",
        ratio(with_p50, without_p50),
        ratio(with_p99, without_p99)
    );
    text += "Clients and service share this process and its cores. Admitted and denied are measured alike, and the\n";
    text += "difference also holds the fields and the body that a limit adds to an answer. A machine that is busy with\n";
    text += "something else shows in p99 and max of both routes.\n";
    if cfg!(debug_assertions) {
        text += "This is a debug build: run it with --release for numbers that mean something.\n";
    }
    text
}

fn ratio(with: f64, without: f64) -> String {
    if without > 0.0 { format!("x {:.2}", with / without) } else { "-".to_owned() }
}
