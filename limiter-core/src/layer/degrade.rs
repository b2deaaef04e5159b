//! The degraded mode: what is answered when nothing below gives an answer.

mod episode;

use crate::backend::{Backend, Locality, Shard, unanswered};
use crate::decision::{Decision, Origin, Verdict};
use crate::error::{BackendError, ErrorKind};
use crate::key::StorageKey;
use crate::layer::Answer;
use crate::memory::{Memory, MemoryUsage};
use crate::metric::{self, Figure};
use crate::quota::{Quota, QuotaError};
use crate::request::{Check, Request};
use async_trait::async_trait;
use episode::Episode;
use smallvec::SmallVec;
use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

/// Answers whatever fails below it, as [`OnOutage`] says: by default from limits of this process's own, which **over `N`
/// instances that are cut off from the store admit up to `N` times the limit**, unless each is told how many there are.
///
/// # Local limits
/// A [`Memory`] holds the same quotas at this instance's share: of a bucket the `N`th part of the rate, and of the burst
/// rounded up; of a window the `N`th part of the limit, rounded up. What the store admits through this instance is
/// charged there too, so that an outage hands nobody a fresh bucket, and its states outlive every outage: one that comes
/// and goes adds what refills meanwhile, and never a burst.
///
/// Over a time `T` of which an instance spends `D` cut off, it adds at most its share of the burst and of the rate over
/// `D` to what the store admits.
///
/// # Answers
/// Each decision that is made here says so: its origin is [`Origin::Degraded`]. Every error is answered, a wrong set-up
/// too, which [`ready`](Backend::ready) goes on reporting. Where the inner backend says at once that it will not answer,
/// as an open breaker does, so does this layer, without a future.
///
/// # Memory
/// That of a [`Memory`] of [`DegradeConfig::local_keys`]. At capacity, new keys share states, which is stricter.
///
/// # Errors
/// None from [`decide`](Backend::decide).
///
/// # Cancel safety
/// That of the inner backend. What a call has been granted whose future is dropped is not charged to the local limits.
///
/// # Example
/// ```
/// use limiter_core::{Degrade, DegradeConfig, Memory, OnOutage, RateLimiter};
/// use std::num::NonZeroU32;
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let eight = OnOutage::Local { instances: NonZeroU32::try_from(8)? };
/// let store = Degrade::new(Memory::new(), DegradeConfig::new().on_outage(eight));
/// let limiter = RateLimiter::new(100, Duration::from_secs(60), store)?;
/// # Ok(())
/// # }
/// ```
pub struct Degrade<B> {
    inner: B,
    policy: Policy,
    episode: Episode,
}

/// What is answered when the store gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnOutage {
    /// Fail open: go ahead, unlimited until the store is back.
    Allow,
    /// Fail closed: nobody goes ahead until the store is back.
    Deny,
    /// The same quotas in this limiter, at the share of one of so many. With 1, the default, `N` instances that are cut off
    /// admit up to `N` times the limit; with `N`, an instance that is cut off alone admits the `N`th part, and what costs
    /// more than its share of a burst waits for the store.
    Local {
        /// How many limiters share the limits: one per instance, unless a process has several of one rule.
        instances: NonZeroU32,
    },
}

impl Default for OnOutage {
    fn default() -> Self {
        Self::Local { instances: NonZeroU32::MIN }
    }
}

/// What a [`Degrade`] answers, and how much it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct DegradeConfig {
    on_outage: OnOutage,
    local_keys: NonZeroUsize,
}

/// What a [`Degrade`] does now, and what it has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DegradeUsage {
    /// Whether some were answered here lately: within a second before the store's last answer, or since, and within the last
    /// minute, after which nobody asks.
    pub is_degraded: bool,
    /// Requests that were answered here.
    pub decisions: u64,
    /// For how long, in all: from each to the next, a second at most, as nobody knows what would have been said meanwhile.
    pub degraded_for: Duration,
    /// Errors that were answered here, by their kind.
    pub errors: Vec<(ErrorKind, u64)>,
    /// What the local limits hold.
    pub local: MemoryUsage,
}

enum Policy {
    Allow,
    Deny,
    Local { instances: NonZeroU32, limits: Memory },
}

/// When to try again where all are denied until the store is back, which is when an open breaker looks.
const UNTIL_BACK: Duration = Duration::from_secs(1);

impl DegradeConfig {
    /// Local limits, as if there were no other instance, for up to 1,000,000 keys at about 100 bytes.
    pub const fn new() -> Self {
        const MILLION: NonZeroUsize = NonZeroUsize::new(1_000_000).unwrap();
        Self { on_outage: OnOutage::Local { instances: NonZeroU32::MIN }, local_keys: MILLION }
    }

    /// What is answered when the store gives no answer.
    pub const fn on_outage(mut self, on_outage: OnOutage) -> Self {
        self.on_outage = on_outage;
        self
    }

    /// The most keys that local limits remember by themselves.
    pub const fn local_keys(mut self, keys: NonZeroUsize) -> Self {
        self.local_keys = keys;
        self
    }
}

impl Default for DegradeConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> Degrade<B> {
    /// The layer around `inner`.
    #[must_use]
    pub fn new(inner: B, config: DegradeConfig) -> Self {
        let policy = match config.on_outage {
            OnOutage::Allow => Policy::Allow,
            OnOutage::Deny => Policy::Deny,
            OnOutage::Local { instances } => {
                Policy::Local { instances, limits: Memory::builder().max_keys(config.local_keys).build() }
            }
        };
        Self { inner, policy, episode: Episode::default() }
    }

    /// The backend that it is around.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// What it does now, and what it has done.
    #[must_use]
    pub fn usage(&self) -> DegradeUsage {
        let local = match &self.policy {
            Policy::Local { limits, .. } => limits.usage(),
            _ => MemoryUsage::default(),
        };
        self.episode.usage(local)
    }

    /// What is said above of an answer from below.
    #[inline]
    fn answer(&self, request: &Request, answer: Answer) -> Answer {
        match &answer {
            Ok(verdict) => self.heard(request, verdict),
            Err(error) => return Ok(self.instead(request, error)),
        }
        answer
    }

    /// The store has answered.
    #[inline]
    fn heard(&self, request: &Request, verdict: &Verdict) {
        self.episode.heard(self.inner.name());
        if let Policy::Local { instances, limits } = &self.policy
            && verdict.allowed()
        {
            limits.charge(request, |quota| quota.share(*instances));
        }
    }

    /// The answer in the place of an error.
    fn instead(&self, request: &Request, error: &BackendError) -> Verdict {
        self.episode.failed(error, self.inner.name());
        match &self.policy {
            Policy::Allow => each(request, allowed),
            Policy::Deny => each(request, denied),
            Policy::Local { instances, limits } => {
                let verdict = limits.decide_under(request, &shares(request, *instances));
                until_back(request, verdict.told_by(Origin::Degraded))
            }
        }
    }
}

/// The share that each check's quota is.
#[inline]
fn shares(request: &Request, instances: NonZeroU32) -> SmallVec<[Quota; 1]> {
    request.checks().iter().map(|check| check.quota.share(instances)).collect()
}

fn each(request: &Request, decide: impl Fn(&Check) -> Decision) -> Verdict {
    match request.checks() {
        [only] => Verdict::one(decide(only)),
        checks => checks.iter().map(decide).collect(),
    }
}

/// What nobody counts leaves all that there is.
fn allowed(check: &Check) -> Decision {
    Decision {
        allowed: true,
        limit: check.quota.limit(),
        capacity: check.quota.capacity(),
        remaining: check.quota.capacity(),
        retry_after: Some(Duration::ZERO),
        reset_after: Duration::ZERO,
        delay: Duration::ZERO,
        origin: Origin::Degraded,
    }
}

/// A cost above the share alone is not one that can never be had: it can once the store is back.
fn until_back(request: &Request, verdict: Verdict) -> Verdict {
    let mend = |(check, decision): (&Check, &Decision)| {
        let is_above_the_share_alone =
            decision.retry_after.is_none() && !decision.allowed && check.cost <= check.quota.capacity();
        let retry_after = if is_above_the_share_alone { Some(UNTIL_BACK) } else { decision.retry_after };
        Decision { retry_after, ..*decision }
    };
    match (request.checks(), verdict.decisions()) {
        ([check], [decision]) => Verdict::one(mend((check, decision))),
        (checks, decisions) => checks.iter().zip(decisions).map(mend).collect(),
    }
}

/// A peek is allowed by definition, and sees that there is nothing to be had.
fn denied(check: &Check) -> Decision {
    let retry_after = match check.cost {
        0 => Some(Duration::ZERO),
        cost => (cost <= check.quota.capacity()).then_some(UNTIL_BACK),
    };
    Decision {
        allowed: check.cost == 0,
        remaining: 0,
        retry_after,
        reset_after: UNTIL_BACK,
        ..allowed(check)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for Degrade<B> {
    async fn decide(&self, batch: &[Request]) -> Vec<Answer> {
        if let [only] = batch {
            return vec![self.decide_one(only).await];
        }
        let mut answers = self.inner.decide(batch).await;
        // Each answer has its place: a reply that is too long is cut, and what is missing is no answer.
        answers.resize_with(batch.len(), || Err(unanswered(self.inner.name())));
        answers.into_iter().zip(batch).map(|(answer, request)| self.answer(request, answer)).collect()
    }

    fn decide_one(&self, request: &Request) -> impl Future<Output = Answer> + Send {
        async move { self.answer(request, self.inner.decide_one(request).await) }
    }

    fn decide_now(&self, request: &Request) -> Option<Answer> {
        self.inner.decide_now(request).map(|answer| self.answer(request, answer))
    }

    fn shard(&self, request: &Request) -> Shard {
        self.inner.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.inner.accepts(quota)
    }

    /// Forgets the keys in the local limits and in the store. A key that shares a local state stays there as it is.
    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        if let Policy::Local { limits, .. } = &self.policy {
            let _shared_states_stay = limits.reset_now(keys);
        }
        self.inner.reset(keys).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.inner.ready().await
    }

    fn locality(&self) -> Locality {
        self.inner.locality()
    }

    fn may_forget(&self) -> bool {
        self.inner.may_forget()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        let DegradeUsage { is_degraded, degraded_for, errors, .. } = self.usage();
        let micros = u64::try_from(degraded_for.as_micros()).unwrap_or(u64::MAX);
        tell(Figure::new(&metric::DEGRADED, self.name(), u64::from(is_degraded)));
        tell(Figure::new(&metric::DEGRADED_SECONDS, self.name(), micros));
        for (kind, count) in errors {
            tell(Figure::new(&metric::DEGRADED_ERRORS, self.name(), count).of_kind(kind));
        }
        if let Policy::Local { limits, .. } = &self.policy {
            limits.report(tell);
        }
        self.inner.report(tell);
    }
}

impl<B: Backend> fmt::Debug for Degrade<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on_outage = match self.policy {
            Policy::Allow => OnOutage::Allow,
            Policy::Deny => OnOutage::Deny,
            Policy::Local { instances, .. } => OnOutage::Local { instances },
        };
        f.debug_struct("Degrade")
            .field("store", &self.inner.name())
            .field("on_outage", &on_outage)
            .field("usage", &self.usage())
            .finish()
    }
}
