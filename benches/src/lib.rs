//! What the benchmarks share: quotas, keys and the order in which they come.

pub mod accuracy;
pub mod floors;
pub mod keys;
pub mod load;
pub mod pipeline;
pub mod random;
pub mod report;
pub mod run;
pub mod stores;

use limiter_core::{Algorithm, Keyspaces, NameError, Quota, QuotaBuilder};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How many keys the benchmarks of many keys use: more states than a core's caches hold.
pub const KEYS: usize = 100_000;

/// A quota that denies nothing in a run, of whole microseconds per permit.
///
/// A bucket is not full again within a second, and a window lasts one, so that the store does not forget the
/// keys between two of their requests; only a log is short, or it would hold an entry per microsecond.
pub const fn plenty(algorithm: Algorithm) -> QuotaBuilder {
    let quota = match algorithm {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => Quota::per_second(1).burst(PLENTY),
        Algorithm::FixedWindow | Algorithm::SlidingCounter => Quota::per_second(PLENTY),
        Algorithm::SlidingLog => Quota::new(Quota::MAX_LOG_LIMIT, Duration::from_millis(1)),
    };
    quota.algorithm(algorithm)
}

/// A token bucket that denies nothing in a run, and is full again between two requests of one of many keys, as those of
/// most callers are.
pub const fn ample() -> QuotaBuilder {
    Quota::per_second(1_000).burst(PLENTY)
}

/// A token bucket that denies nothing in a run, with a remainder of a third of a microsecond per permit.
pub const fn plenty_with_remainder() -> QuotaBuilder {
    Quota::new(3, Duration::from_millis(3_001)).burst(PLENTY)
}

/// A quota that denies everything in a run but a key's first request.
pub const fn scarce(algorithm: Algorithm) -> QuotaBuilder {
    Quota::per_day(1).algorithm(algorithm)
}

/// A token bucket that denies everything but a key's first request, with a remainder per permit.
pub const fn scarce_with_remainder() -> QuotaBuilder {
    Quota::per_day(7).burst(1)
}

const PLENTY: u64 = 1_000_000_000;

/// Different keys of 24 bytes.
#[must_use]
pub fn keys(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("tenant:7/user:{i:010}")).collect()
}

/// In which order `length` requests come, as indices below `keys`: random, and the same for equal seeds.
#[must_use]
pub fn order(keys: usize, length: usize, seed: u64) -> Vec<usize> {
    let mut random = random::Random::new(seed);
    let next = || usize::try_from(random.below(keys as u64)).unwrap_or(0);
    std::iter::repeat_with(next).take(length).collect()
}

/// The keyspaces of the benchmarks.
///
/// # Errors
/// None: the names are short.
pub fn keyspaces() -> Result<Keyspaces, NameError> {
    Keyspaces::new("bench", "per-user")
}

/// The output of a future that is ready when it is first polled.
pub fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Near enough for a report.
#[expect(clippy::cast_precision_loss, reason = "a report shows three digits")]
#[must_use]
pub const fn float(number: u64) -> f64 {
    number as f64
}
