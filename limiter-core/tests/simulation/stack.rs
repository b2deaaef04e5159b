//! The layers of an instance, put together by hand as `standard` does it, or with one bug.

use crate::history::{Event, History};
use crate::plan::Layers;
use crate::planted::{Bug, Wrong};
use async_trait::async_trait;
use limiter_core::{
    Backend, BackendError, Breaker, BreakerState, Coalesce, Deadline, DeadlineConfig, Degrade, DenyCache,
    DenyCacheConfig, Figure, Locality, Observe, ObserveTrips, Quota, QuotaError, Request, Shard,
    StandardConfig, StorageKey, Verdict, standard,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

type Answer = Result<Verdict, BackendError>;
type Inner = Arc<dyn Backend>;

/// One instance's backend, and what is looked at inside.
#[derive(Clone)]
pub(crate) struct Stack {
    pub(crate) top: Inner,
    breaker: Arc<Breaker<Inner>>,
    coalesce: Arc<Coalesce<Inner>>,
    has_failed: Arc<AtomicBool>,
}

impl Stack {
    pub(crate) fn new(
        store: Inner,
        layers: &Layers,
        bug: Option<Bug>,
        instance: usize,
        history: &Arc<History>,
    ) -> Self {
        let wrong = |inner: Inner, bugs: &[Bug]| match bug.filter(|bug| bugs.contains(bug)) {
            Some(bug) => Arc::new(Wrong::new(bug, inner, layers)),
            None => inner,
        };
        let trips: Inner = Arc::new(ObserveTrips::new(store));
        let trips =
            wrong(trips, &[Bug::RetriesUnknown, Bug::ChargesTwice, Bug::SwapsAnswers, Bug::SaysNotApplied]);
        let coalesce = Arc::new(Coalesce::new(trips, layers.coalesce));
        let below = wrong(coalesce.clone(), &[Bug::ForgetsTheDeadline]);
        let deadline = match bug {
            Some(Bug::WaitsLonger) => {
                DeadlineConfig::new().decision(layers.decision + Duration::from_millis(1))
            }
            _ => layers.deadline,
        };
        let deadline: Inner = Arc::new(Deadline::new(below, deadline));
        let breaker = Arc::new(Breaker::new(deadline.clone(), layers.breaker));
        let around: Inner = match bug {
            Some(bug @ (Bug::LetsAllThroughHalfOpen | Bug::AsksWhileOpen)) => {
                Arc::new(Wrong::new(bug, breaker.clone(), layers).with(deadline, breaker.clone()))
            }
            Some(bug @ Bug::NeverCloses) => {
                Arc::new(Wrong::new(bug, breaker.clone(), layers).with(deadline, breaker.clone()))
            }
            _ => breaker.clone(),
        };
        let has_failed = Arc::new(AtomicBool::new(false));
        let tap: Inner = Arc::new(Tap {
            inner: around,
            instance,
            history: Arc::clone(history),
            has_failed: Arc::clone(&has_failed),
        });
        let degrade: Inner = match bug {
            Some(Bug::HandsOutFreshBuckets) => Arc::new(Wrong::new(Bug::HandsOutFreshBuckets, tap, layers)),
            _ => wrong(Arc::new(Degrade::new(tap, layers.degrade)), &[Bug::HidesThatItIsDegraded]),
        };
        let deny_cache = match bug {
            Some(Bug::RemembersTooLong) => DenyCacheConfig::new().hold(layers.hold * 4),
            _ => layers.deny_cache,
        };
        let remembering = Arc::new(DenyCache::new(degrade.clone(), deny_cache));
        let top: Inner = match bug {
            Some(bug @ Bug::RemembersAfterReset) => {
                Arc::new(Wrong::new(bug, remembering, layers).with(degrade, breaker.clone()))
            }
            _ => remembering,
        };
        Self { top: Arc::new(Observe::new(top)), breaker, coalesce, has_failed }
    }

    /// The same as a limiter has it.
    pub(crate) fn as_standard(store: Inner, layers: &Layers) -> Inner {
        let config = StandardConfig::new()
            .deny_cache(layers.deny_cache)
            .degrade(layers.degrade)
            .breaker(layers.breaker)
            .deadline(layers.deadline)
            .coalesce(layers.coalesce);
        standard(store, config)
    }

    /// How the breaker is. It is not looked at where no call has failed since it was last seen closed.
    pub(crate) fn breaker(&self) -> BreakerState {
        if !self.has_failed.load(Ordering::Relaxed) {
            return BreakerState::Closed;
        }
        let state = state_of(&self.breaker);
        self.has_failed.store(state != BreakerState::Closed, Ordering::Relaxed);
        state
    }

    /// Requests that wait, and those on their way.
    pub(crate) fn queued(&self) -> (usize, usize) {
        let usage = self.coalesce.usage();
        (usage.queued, usage.in_flight)
    }
}

pub(crate) fn state_of(breaker: &Breaker<Inner>) -> BreakerState {
    breaker.usage().parts.first().map_or(BreakerState::Closed, |(_, state)| *state)
}

/// Hears what the degraded mode is told.
struct Tap {
    inner: Inner,
    instance: usize,
    history: Arc<History>,
    has_failed: Arc<AtomicBool>,
}

impl Tap {
    fn hear(&self, request: &Request, answer: &Answer) {
        if let Err(error) = answer {
            self.has_failed.store(true, Ordering::Relaxed);
            let id = self.history.id(self.instance, request);
            self.history.add(Event::Failed { id, kind: error.kind(), effect: error.effect() });
        }
    }
}

#[async_trait]
impl Backend for Tap {
    async fn decide(&self, batch: &[Request]) -> Vec<Answer> {
        let answers = self.inner.decide(batch).await;
        batch.iter().zip(&answers).for_each(|(request, answer)| self.hear(request, answer));
        answers
    }

    fn decide_now(&self, request: &Request) -> Option<Answer> {
        let answer = self.inner.decide_now(request)?;
        self.hear(request, &answer);
        Some(answer)
    }

    fn shard(&self, request: &Request) -> Shard {
        self.inner.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.inner.accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
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
        self.inner.report(tell);
    }
}
