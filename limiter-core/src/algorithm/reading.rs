use super::{
    BucketReading, CounterReading, FixedWindow, LeakyBucket, LogReading, SlidingCounter, SlidingLog, Step,
    TokenBucket, WindowReading,
};
use crate::algorithm::Algorithm;
use crate::decision::{Decision, Verdict};
use crate::quota::Quota;
use crate::request::Check;
use crate::time::Timestamp;

/// What a store read of a key, whichever its algorithm: of fixed size, and enough for every field of a decision.
///
/// A store that decides by a script or a statement sends readings; the answers are made of them here, by the same
/// functions that decide in process. A reading of another algorithm than the quota's admits nothing.
///
/// # Example: a bucket that a store read as full from two seconds ahead on
/// ```
/// use limiter_core::algorithm::{BucketReading, Reading};
/// use limiter_core::{Quota, Timestamp};
///
/// let now = Timestamp::from_micros(1_000_000_000)?;
/// let reading = Reading::Bucket(BucketReading::new(1_002_000_000, 0));
/// let decision = reading.decide(&Quota::per_second(3).build()?, 1, now);
/// assert_eq!(decision.map(|d| d.allowed), Some(false));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reading {
    /// Of a token or leaky bucket.
    Bucket(BucketReading),
    /// Of a fixed window.
    Window(WindowReading),
    /// Of a sliding window log.
    Log(LogReading),
    /// Of a sliding window counter.
    Counter(CounterReading),
}

impl Reading {
    /// The decision on `cost` at `now`; `None` if the reading is not one of the quota's algorithm.
    #[must_use]
    pub fn decide(&self, quota: &Quota, cost: u64, now: Timestamp) -> Option<Decision> {
        match (self, quota.algorithm()) {
            (Self::Bucket(reading), Algorithm::TokenBucket) => {
                Some(TokenBucket::decide(reading, quota, cost, now))
            }
            (Self::Bucket(reading), Algorithm::LeakyBucket) => {
                Some(LeakyBucket::decide(reading, quota, cost, now))
            }
            (Self::Window(reading), Algorithm::FixedWindow) => {
                Some(FixedWindow::decide(reading, quota, cost, now))
            }
            (Self::Log(reading), Algorithm::SlidingLog) => {
                Some(SlidingLog::decide(reading, quota, cost, now))
            }
            (Self::Counter(reading), Algorithm::SlidingCounter) => {
                Some(SlidingCounter::decide(reading, quota, cost, now))
            }
            _ => None,
        }
    }

    /// Whether the deciding instant was `now`, and not that of a state that lies ahead.
    pub(crate) fn is_of(&self, now: Timestamp) -> bool {
        match self {
            Self::Bucket(_) => true,
            Self::Window(reading) => reading.is_of(now),
            Self::Log(reading) => reading.is_of(now),
            Self::Counter(reading) => reading.is_of(now),
        }
    }

    /// The reading of the same state for the same `cost` at a later instant, should nobody have consumed; `None` if it is
    /// not one of the quota's algorithm, or does not say. That of a log alone depends on the cost.
    pub(crate) fn later(&self, quota: &Quota, cost: u64, now: Timestamp) -> Option<Self> {
        match (self, quota.algorithm()) {
            (Self::Bucket(reading), Algorithm::TokenBucket | Algorithm::LeakyBucket) => {
                Some(Self::Bucket(TokenBucket::read(&reading.state(quota), quota, cost, now)))
            }
            (Self::Window(reading), Algorithm::FixedWindow) => {
                Some(Self::Window(FixedWindow::read(&reading.state(), quota, cost, now)))
            }
            (Self::Counter(reading), Algorithm::SlidingCounter) => {
                Some(Self::Counter(SlidingCounter::read(&reading.state(), quota, cost, now)))
            }
            (Self::Log(reading), Algorithm::SlidingLog) => Some(Self::Log(reading.later(quota, cost, now)?)),
            _ => None,
        }
    }

    /// The reading at the same instant once `cost` was taken, as the next of a run of equal requests meets it.
    #[must_use]
    pub fn after(&self, quota: &Quota, cost: u64) -> Self {
        match self {
            Self::Bucket(reading) => Self::Bucket(TokenBucket::after(reading, quota, cost)),
            Self::Window(reading) => Self::Window(FixedWindow::after(reading, quota, cost)),
            Self::Log(reading) => Self::Log(SlidingLog::after(reading, quota, cost)),
            Self::Counter(reading) => Self::Counter(SlidingCounter::after(reading, quota, cost)),
        }
    }

    /// The verdict on a request of several checks, of each of which a store sent a reading: all are evaluated, and
    /// where one denies, the others say where their keys stand. `None` if a reading is missing or of another
    /// algorithm.
    #[must_use]
    pub fn verdict(checks: &[Check], readings: &[Self], now: Timestamp) -> Option<Verdict> {
        Some(Self::decide_all(checks, readings, now)?.on(readings, now))
    }

    /// The [`verdict`](Self::verdict), which does not tell what it was made of.
    pub(crate) fn decide_all(checks: &[Check], readings: &[Self], now: Timestamp) -> Option<Verdict> {
        if let ([check], [reading]) = (checks, readings) {
            return reading.decide(&check.quota, check.cost, now).map(Verdict::one);
        }
        if checks.len() != readings.len() {
            return None;
        }
        let each = || checks.iter().zip(readings);
        let decided = each().map(|(check, reading)| reading.decide(&check.quota, check.cost, now));
        let decisions = decided.collect::<Option<Vec<Decision>>>()?;
        if decisions.iter().all(|decision| decision.allowed) {
            return Some(decisions.into_iter().collect());
        }
        let spared = |((check, reading), decision): ((&Check, &Self), Decision)| {
            if decision.allowed { reading.decide(&check.quota, 0, now) } else { Some(decision) }
        };
        each().zip(decisions).map(spared).collect()
    }
}
