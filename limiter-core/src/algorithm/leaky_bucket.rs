use super::Step;
use super::token_bucket::{Bucket, BucketReading, TokenBucket};
use crate::decision::Decision;
use crate::quota::Quota;
use crate::time::Timestamp;
use std::time::Duration;

/// Leaky bucket, as a queue: the token bucket whose admissions are told when it is their turn.
///
/// # Shape
/// [`Bucket`], the token bucket's: when the queue is empty again.
///
/// # Rule
/// The token bucket's, with a queue that holds `B` permits' worth of work. An admitted request's turn comes
/// after what was admitted before it: `delay = ceil(base - now)`. A peek has none.
///
/// # Bound
/// Admissions that each start at their turn are spaced by `W / L` per permit, to the microsecond that the
/// delay is rounded up to; the rounding does not add up.
///
/// # Source
/// The leaky bucket as a queue: Turner, "New directions in communications (or which way to the information
/// age?)", IEEE Communications Magazine 24(10), 1986. The admission is the token bucket's.
#[derive(Clone, Copy, Debug)]
pub struct LeakyBucket;

impl Step for LeakyBucket {
    type State = Bucket;
    type Reading = BucketReading;

    fn read(state: &Bucket, quota: &Quota, cost: u64, now: Timestamp) -> BucketReading {
        TokenBucket::read(state, quota, cost, now)
    }

    fn decide(reading: &BucketReading, quota: &Quota, cost: u64, now: Timestamp) -> Decision {
        let mut decision = TokenBucket::decide(reading, quota, cost, now);
        if decision.allowed && cost > 0 {
            decision.delay = Duration::from_micros(reading.backlog(now, quota).ceil());
        }
        decision
    }

    fn take(state: &mut Bucket, reading: &BucketReading, quota: &Quota, cost: u64) {
        TokenBucket::take(state, reading, quota, cost);
    }

    fn after(reading: &BucketReading, quota: &Quota, cost: u64) -> BucketReading {
        TokenBucket::after(reading, quota, cost)
    }

    fn give_back(
        state: &mut Bucket,
        quota: &Quota,
        cost: u64,
        taken: &BucketReading,
        taken_at: Timestamp,
        now: Timestamp,
    ) {
        TokenBucket::give_back(state, quota, cost, taken, taken_at, now);
    }
}
