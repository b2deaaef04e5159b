//! The algorithms: pure functions of a key's state, its quota, a cost and an instant.
//!
//! No clock, no I/O, no floats, nothing that can overflow. They are the reference: in-process stores and
//! compare-and-swap stores call them, scripts and SQL restate what they admit and the state they leave.
//!
//! | algorithm | state | never admits more than | worst case |
//! |---|---|---|---|
//! | [`TokenBucket`] | 24 bytes | burst + rate × time, over any interval | a burst after a rest |
//! | [`LeakyBucket`] | 24 bytes | the same, each admission told its turn | waiting for the turn |
//! | [`FixedWindow`] | 16 bytes | the limit per aligned window | twice the limit across a boundary |
//! | [`SlidingLog`] | 16 bytes per admission | the limit in any window, exactly | memory grows with the limit |
//! | [`SlidingCounter`] | 24 bytes | the limit per aligned window | just under twice the limit in a sliding window |
#![deny(clippy::arithmetic_side_effects)]

mod fixed_window;
mod leaky_bucket;
mod reading;
mod sliding_counter;
mod sliding_log;
mod token_bucket;

pub use fixed_window::{FixedWindow, Window, WindowReading};
pub use leaky_bucket::LeakyBucket;
pub use reading::Reading;
pub use sliding_counter::{Counter, CounterReading, SlidingCounter};
pub use sliding_log::{Log, LogReading, SlidingLog};
pub use token_bucket::{Bucket, BucketReading, TokenBucket};

use crate::decision::Decision;
use crate::quota::Quota;
use crate::time::Timestamp;
use std::fmt;
use std::str::FromStr;

/// Which algorithm enforces a quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// [`TokenBucket`]: the default; exact, small, allows bursts up to the capacity.
    #[default]
    TokenBucket,
    /// [`LeakyBucket`]: the token bucket as a queue; each admission gets its turn.
    LeakyBucket,
    /// [`FixedWindow`]: a count per aligned window.
    FixedWindow,
    /// [`SlidingLog`]: every admission of the last window.
    SlidingLog,
    /// [`SlidingCounter`]: two counts that approximate a sliding window.
    SlidingCounter,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 5] =
        [Self::TokenBucket, Self::LeakyBucket, Self::FixedWindow, Self::SlidingLog, Self::SlidingCounter];

    /// The algorithm of this number, in the order of [`ALL`](Self::ALL).
    #[inline]
    pub(crate) const fn from_word(word: u64) -> Self {
        match word {
            0 => Self::TokenBucket,
            1 => Self::LeakyBucket,
            2 => Self::FixedWindow,
            3 => Self::SlidingLog,
            _ => Self::SlidingCounter,
        }
    }

    /// Its name in text, such as `token-bucket`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokenBucket => "token-bucket",
            Self::LeakyBucket => "leaky-bucket",
            Self::FixedWindow => "fixed-window",
            Self::SlidingLog => "sliding-log",
            Self::SlidingCounter => "sliding-counter",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no algorithm has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no algorithm: token-bucket, leaky-bucket, fixed-window, sliding-log or sliding-counter")]
pub struct UnknownAlgorithm(String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    /// The name, with `-` or `_` between its words.
    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        let dashed = name.replace('_', "-");
        Self::ALL.into_iter().find(|a| a.name() == dashed).ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }
}

/// One algorithm, cut where stores differ: reading a state, deciding on what was read, taking.
///
/// [`step`](Self::step) is the whole. A store that keeps several keys reads and decides all checks of a
/// request first and takes only if all are admitted.
///
/// To be correct, for any state, quota of this algorithm, cost and instant:
/// - `State::default()` stands for a key that was never used;
/// - `read` and `decide` change nothing; `take` follows only an admission at a cost above zero;
/// - `decide` needs nothing but what `read` gave, so that a store may send just that.
///
/// # Examples
/// Three permits a second; the fourth is denied until the first third of a second has passed:
/// ```
/// use limiter_core::algorithm::{Step, TokenBucket};
/// use limiter_core::{Quota, Timestamp};
///
/// let quota = Quota::per_second(3).build()?;
/// let now = Timestamp::from_micros(1_000_000)?;
/// let mut state = Default::default();
/// for _ in 0..3 {
///     assert!(TokenBucket::step(&mut state, &quota, 1, now).allowed);
/// }
/// let denied = TokenBucket::step(&mut state, &quota, 1, now);
/// assert_eq!(denied.retry_after.map(|wait| wait.as_micros()), Some(333_334));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Step {
    /// What is kept per key.
    type State: Clone + Default + fmt::Debug + PartialEq + Send + 'static;
    /// The state as it stands at the deciding instant: all that a decision is computed from.
    type Reading: Copy + fmt::Debug + PartialEq;

    /// The state as it stands for a request of `cost` at `now`.
    fn read(state: &Self::State, quota: &Quota, cost: u64, now: Timestamp) -> Self::Reading;

    /// Whether `cost` is admitted, and every field of the decision.
    fn decide(reading: &Self::Reading, quota: &Quota, cost: u64, now: Timestamp) -> Decision;

    /// Takes `cost`, which was admitted on this reading of this state.
    fn take(state: &mut Self::State, reading: &Self::Reading, quota: &Quota, cost: u64);

    /// What [`read`](Self::read) gives at the same instant once `cost` was taken: for a run of equal requests, of
    /// which a store sends one reading.
    #[must_use]
    fn after(reading: &Self::Reading, quota: &Quota, cost: u64) -> Self::Reading;

    /// Gives back `cost`, which was taken on `taken` at `taken_at`, as far as it still weighs at `now`: for a store
    /// that cannot decide several keys in one step, when a later check of the request denies.
    ///
    /// As long as the store has kept the state since, it is never looser for it than had the cost not been taken.
    /// Nothing is given back of what is gone already, nor where the state shows that the quota has changed since. A
    /// state that was lost and used anew in between (a reset, an eviction, a failover) gives back what others took.
    fn give_back(
        state: &mut Self::State,
        quota: &Quota,
        cost: u64,
        taken: &Self::Reading,
        taken_at: Timestamp,
        now: Timestamp,
    );

    /// Decides one request of `cost` at `now`; `state` changes only if it is admitted.
    ///
    /// The state may be forgotten once the decision's `reset_after` has passed.
    #[inline(always)]
    fn step(state: &mut Self::State, quota: &Quota, cost: u64, now: Timestamp) -> Decision {
        let reading = Self::read(state, quota, cost, now);
        let decision = Self::decide(&reading, quota, cost, now);
        if decision.allowed && cost > 0 {
            Self::take(state, &reading, quota, cost);
        }
        decision
    }
}

/// The instant that decides, once a state that was written at `seen` has been looked at: time seen by a key
/// never runs backwards. `None`: the state is more than a `window` ahead and counts as absent.
fn not_before(seen: u64, now: Timestamp, window: u64) -> Option<u64> {
    let ahead = seen.saturating_sub(now.as_micros());
    (ahead <= window).then(|| seen.max(now.as_micros()))
}
