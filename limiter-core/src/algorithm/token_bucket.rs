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
    /// A bucket that is full again at `whole + rem / denominator` us since the Unix epoch; what makes no such
    /// state, `rem` not below `denominator`, is the next whole us.
    #[must_use]
    pub fn new(whole: u64, rem: u64, denominator: u64) -> Self {
        let full_at = Span { whole, rem };
        if rem == 0 || rem < denominator {
            return Self { full_at, denominator };
        }
        Self { full_at: Span { whole: full_at.ceil(), rem: 0 }, denominator: 1 }
    }

    /// When it is full again, as the arguments of [`new`](Self::new).
    #[must_use]
    pub const fn parts(&self) -> (u64, u64, u64) {
        (self.full_at.whole, self.full_at.rem, self.denominator)
    }

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
    /// What a store read: `whole + rem / l` us since the epoch, where `l` is the quota's.
    #[must_use]
    pub const fn new(whole: u64, rem: u64) -> Self {
        Self { base: Span { whole, rem } }
    }

    /// A state that reads so.
    pub(super) fn state(&self, quota: &Quota) -> Bucket {
        Bucket { full_at: self.base, denominator: quota.denominator() }
    }

    /// How long the next admission waits for its turn, as a queue reads it.
    pub(super) fn backlog(&self, now: Timestamp, quota: &Quota) -> Span {
        self.base.minus(at(now), quota.denominator())
    }
}

impl Step for TokenBucket {
    type State = Bucket;
    type Reading = BucketReading;

    #[inline(always)]
    fn read(state: &Bucket, quota: &Quota, _cost: u64, now: Timestamp) -> BucketReading {
        if quota.denominator() == 1 {
            let full_at = Span { whole: state.full_at.ceil(), rem: 0 };
            return read(&Bucket { full_at, denominator: 1 }, &quota.in_whole(), now);
        }
        read(state, quota, now)
    }

    #[inline(always)]
    fn decide(reading: &BucketReading, quota: &Quota, cost: u64, now: Timestamp) -> Decision {
        if quota.denominator() == 1 {
            let base = Span { whole: reading.base.whole, rem: 0 };
            return decide(&BucketReading { base }, &quota.in_whole(), cost, now);
        }
        decide(reading, quota, cost, now)
    }

    #[inline(always)]
    fn take(state: &mut Bucket, reading: &BucketReading, quota: &Quota, cost: u64) {
        if quota.denominator() == 1 {
            let base = Span { whole: reading.base.whole, rem: 0 };
            return take(state, &BucketReading { base }, &quota.in_whole(), cost);
        }
        take(state, reading, quota, cost);
    }

    fn after(reading: &BucketReading, quota: &Quota, cost: u64) -> BucketReading {
        BucketReading { base: reading.base.plus(quota.refill(cost), quota.denominator()) }
    }

    fn give_back(
        state: &mut Bucket,
        quota: &Quota,
        cost: u64,
        _taken: &BucketReading,
        taken_at: Timestamp,
        now: Timestamp,
    ) {
        let denominator = quota.denominator();
        let changed = state.full_at.rem > 0 && state.denominator != denominator;
        // A clock that stepped back may have made the state count as absent, and what stands there another's.
        if changed || now < taken_at {
            return;
        }
        // Of what was taken, as much as has not refilled since even if nothing else was to refill before it.
        let unfilled = at(taken_at).plus(quota.refill(cost), denominator).minus(at(now), denominator);
        let lowered = state.full_at.minus(Span { whole: unfilled.whole, rem: 0 }, denominator);
        if state.full_at > at(now) {
            state.full_at = lowered.max(at(now));
        }
    }
}

// Always inlined, so that a decision stays in registers until it is written where it is wanted.
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
