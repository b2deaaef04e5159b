//! Answers: what was decided about each check, and about a request as a whole.

use crate::algorithm::Reading;
use crate::one_or_many::OneOrMany;
use crate::quota::Quota;
use crate::time::Timestamp;
use smallvec::SmallVec;
use std::time::Duration;

/// What was decided, and where the key stands.
///
/// Durations are whole microseconds, rounded up, and count from the instant of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a decision protects nothing until it is obeyed"]
#[non_exhaustive]
pub struct Decision {
    /// Whether the request may go ahead.
    pub allowed: bool,
    /// Permits per window of the quota that decided.
    pub limit: u64,
    /// The most that this quota lets be taken at once: its burst, or its limit.
    pub capacity: u64,
    /// Permits that could be taken right after this decision.
    pub remaining: u64,
    /// If denied: the wait after which the same request is allowed, should nobody else consume; `None` where
    /// its cost is above the capacity, so that no wait helps. Zero if allowed.
    pub retry_after: Option<Duration>,
    /// The time until the key is as if never used; zero where it is.
    pub reset_after: Duration,
    /// How long an admitted request is to wait for its turn; only the leaky bucket says more than zero.
    pub delay: Duration,
    /// Who answered.
    pub origin: Origin,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The store.
    #[default]
    Store,
    /// A denial of the store, remembered in this process.
    RememberedDenial,
    /// This process alone, while the store gave no answer.
    Degraded,
}

/// What an algorithm says of a request, its times in microseconds.
pub(crate) struct Outcome {
    pub(crate) allowed: bool,
    pub(crate) remaining: u64,
    /// The wait of a denied request, unless none helps.
    pub(crate) retry_after: Option<u64>,
    pub(crate) reset_after: u64,
}

impl Outcome {
    #[inline]
    pub(crate) fn decision(self, quota: &Quota) -> Decision {
        let retry_after = if self.allowed { Some(0) } else { self.retry_after };
        Decision {
            allowed: self.allowed,
            limit: quota.limit(),
            capacity: quota.capacity(),
            remaining: self.remaining,
            retry_after: retry_after.map(Duration::from_micros),
            reset_after: Duration::from_micros(self.reset_after),
            delay: Duration::ZERO,
            origin: Origin::Store,
        }
    }
}

/// The answer to a [`Request`](crate::Request): one decision per check, in order.
///
/// A request is granted if every check is; then all have consumed. Else none has, and a check that would have
/// been admitted is `allowed` and says where its key stands.
#[derive(Clone, Debug)]
#[must_use = "a verdict protects nothing until it is obeyed"]
pub struct Verdict {
    decisions: OneOrMany<Decision>,
    basis: Option<Box<Basis>>,
}

/// What a store's denial was made of: what it read of each check's key, and when.
#[derive(Clone, Debug)]
pub(crate) struct Basis {
    pub(crate) now: Timestamp,
    pub(crate) readings: SmallVec<[Reading; 1]>,
}

/// Verdicts are equal that say the same.
impl PartialEq for Verdict {
    fn eq(&self, other: &Self) -> bool {
        self.decisions == other.decisions
    }
}

impl Eq for Verdict {}

impl Verdict {
    /// The verdict on one check.
    #[inline]
    pub fn one(decision: Decision) -> Self {
        Self { decisions: OneOrMany::one(decision), basis: None }
    }

    /// One decision per check, in the request's order.
    #[inline]
    pub fn decisions(&self) -> &[Decision] {
        self.decisions.as_slice()
    }

    /// The same verdict; one that denies with what it was made of.
    pub(crate) fn on(self, readings: &[Reading], now: Timestamp) -> Self {
        if self.allowed() {
            return self;
        }
        let basis = Some(Box::new(Basis { now, readings: SmallVec::from_slice(readings) }));
        Self { basis, ..self }
    }

    /// What a store's denial was made of, if it was told.
    pub(crate) fn basis(&self) -> Option<&Basis> {
        self.basis.as_deref()
    }

    /// The same verdict, by another.
    pub(crate) fn told_by(mut self, origin: Origin) -> Self {
        self.decisions.as_mut_slice().iter_mut().for_each(|decision| decision.origin = origin);
        self
    }

    /// The one decision on a request of one check.
    #[inline(always)]
    pub(crate) fn only(&self) -> Option<&Decision> {
        match &self.decisions {
            OneOrMany::One([only]) => Some(only),
            OneOrMany::Many(_) => None,
        }
    }

    /// Whether the request was granted.
    #[must_use]
    #[inline]
    pub fn allowed(&self) -> bool {
        self.decisions().iter().all(|d| d.allowed)
    }

    /// The verdict in one decision.
    ///
    /// Denied: the denying check that asks for the longest wait (one that no wait helps before all others).
    /// Allowed: the check with the least of its capacity remaining, and the longest delay of all.
    /// The first of equals; `None` if the verdict is empty.
    #[must_use]
    #[inline]
    pub fn summary(&self) -> Option<Decision> {
        match self.decisions() {
            [only] => Some(*only),
            _ => self.binding(),
        }
    }

    fn binding(&self) -> Option<Decision> {
        let wait = |d: &Decision| d.retry_after.unwrap_or(Duration::MAX);
        let denying = self.decisions().iter().filter(|d| !d.allowed);
        let longest = denying.reduce(|a, b| if wait(b) > wait(a) { b } else { a });
        let share = |a: &Decision, b: &Decision| u128::from(a.remaining) * u128::from(b.capacity);
        let tightest =
            || self.decisions().iter().reduce(|a, b| if share(b, a) < share(a, b) { b } else { a });
        let binding = longest.or_else(tightest)?;
        let delay = self.decisions().iter().map(|d| d.delay).max().unwrap_or_default();
        Some(Decision { delay, ..*binding })
    }
}

impl FromIterator<Decision> for Verdict {
    fn from_iter<I: IntoIterator<Item = Decision>>(decisions: I) -> Self {
        Self { decisions: decisions.into_iter().collect(), basis: None }
    }
}
