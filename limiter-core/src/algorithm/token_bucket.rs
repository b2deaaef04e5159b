use super::Step;
use crate::decision::{Decision, Outcome};
use crate::quota::{Quota, Span};
use crate::time::Timestamp;

/// Token bucket, as the generic cell rate algorithm in exact arithmetic.
///
/// A bucket of `B` permits, full at first, refills at `L` permits per window `W`.
///
/// # Shape
/// [`Bucket`]: the instant at which the bucket is full again, as whole us (below 2^53) and a remainder
/// `r / l` of one (`r < l < 2^53`), kept with its `l`.
///
/// # Rule
/// A permit costs `w / l` us, which is `W / L` in lowest terms. With `base = max(full_at, now)` and
/// `next = base + n * w / l`, a request of `n` permits is admitted iff `next - now <= B * w / l`, compared
/// exactly; then `full_at` becomes `next`. A remainder that was written under another `l` counts as one
/// whole us; a `full_at` more than two fillings ahead counts as absent.
///
/// # Bound
/// The cost admitted in any interval of length `T` is at most `B + T * L / W`: no drift for any `L` and `W`,
/// and nothing that could be admitted is denied.
///
/// # Source
/// The virtual scheduling form of the generic cell rate algorithm, ITU-T Recommendation I.371 annex A.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket;

/// What a bucket keeps: when it is full again. The default is a bucket that was never used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: Span,
    denominator: u64,
}

impl Bucket {
    /// The first whole microsecond, since the Unix epoch, at which the bucket is as if never used.
    #[must_use]
    pub fn reset_at(&self) -> u64 {
        self.full_at.ceil()
    }
}

/// A bucket as it stands for a request: when it is full again, or the deciding instant if it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketReading {
    base: Span,
}

impl BucketReading {
    /// How long the next admission waits for its turn, as a queue reads it.
    pub(super) fn backlog(&self, now: Timestamp, quota: &Quota) -> Span {
        self.base.minus(at(now), quota.denominator())
    }
}

impl Step for TokenBucket {
    type State = Bucket;
    type Reading = BucketReading;

    #[inline]
    fn read(state: &Bucket, quota: &Quota, _cost: u64, now: Timestamp) -> BucketReading {
        if quota.denominator() == 1 {
            let full_at = Span { whole: state.full_at.ceil(), rem: 0 };
            return read(&Bucket { full_at, denominator: 1 }, &quota.in_whole(), now);
        }
        read(state, quota, now)
    }

    #[inline]
    fn decide(reading: &BucketReading, quota: &Quota, cost: u64, now: Timestamp) -> Decision {
        if quota.denominator() == 1 {
            let base = Span { whole: reading.base.whole, rem: 0 };
            return decide(&BucketReading { base }, &quota.in_whole(), cost, now);
        }
        decide(reading, quota, cost, now)
    }

    #[inline]
    fn take(state: &mut Bucket, reading: &BucketReading, quota: &Quota, cost: u64) {
        if quota.denominator() == 1 {
            let base = Span { whole: reading.base.whole, rem: 0 };
            return take(state, &BucketReading { base }, &quota.in_whole(), cost);
        }
        take(state, reading, quota, cost);
    }
}

// Each is compiled twice: for quotas of whole microseconds per permit, which most are, no remainder is computed.

#[inline(always)]
fn read(state: &Bucket, quota: &Quota, now: Timestamp) -> BucketReading {
    let full_at = if state.full_at.rem == 0 || state.denominator == quota.denominator() {
        state.full_at
    } else {
        Span { whole: state.full_at.ceil(), rem: 0 }
    };
    let furthest = quota.filling().plus(quota.filling(), quota.denominator());
    let ahead = full_at.minus(at(now), quota.denominator());
    let base = if ahead > furthest { at(now) } else { full_at.max(at(now)) };
    BucketReading { base }
}

#[inline(always)]
fn decide(reading: &BucketReading, quota: &Quota, cost: u64, now: Timestamp) -> Decision {
    let denominator = quota.denominator();
    let held = reading.backlog(now, quota);
    let fits = cost <= quota.capacity();
    let next = if fits { held.plus(quota.refill(cost), denominator) } else { held };
    let allowed = cost == 0 || (fits && next <= quota.filling());
    let used = if allowed { next } else { held };
    Outcome {
        allowed,
        remaining: quota.permits_in(quota.filling().minus(used, denominator)),
        retry_after: (fits && !allowed).then(|| next.minus(quota.filling(), denominator).ceil()),
        reset_after: used.ceil(),
    }
    .decision(quota)
}

#[inline(always)]
fn take(state: &mut Bucket, reading: &BucketReading, quota: &Quota, cost: u64) {
    let denominator = quota.denominator();
    *state = Bucket { full_at: reading.base.plus(quota.refill(cost), denominator), denominator };
}

const fn at(now: Timestamp) -> Span {
    Span { whole: now.as_micros(), rem: 0 }
}
