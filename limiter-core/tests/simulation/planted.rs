//! Bugs that the simulation must find, each a backend in the place of a layer or between two.

use crate::plan::Layers;
use crate::stack::state_of;
use async_trait::async_trait;
use limiter_core::{
    Backend, BackendError, Breaker, BreakerState, Degrade, DegradeConfig, Effect, ErrorKind, Figure,
    Locality, Origin, Quota, QuotaError, Request, Shard, StorageKey, Verdict,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

type Answer = Result<Verdict, BackendError>;
type Inner = Arc<dyn Backend>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Below the queue: sends again what may have been recorded.
    RetriesUnknown,
    /// Below the queue: sends one trip in fifty twice.
    ChargesTwice,
    /// Below the queue: two callers get each other's answers.
    SwapsAnswers,
    /// Below the queue: says of what was sent that it was not recorded.
    SaysNotApplied,
    /// Above the queue: the deadline does not travel.
    ForgetsTheDeadline,
    /// The deadline is a millisecond late.
    WaitsLonger,
    /// The breaker lets everybody through once a probe was answered.
    LetsAllThroughHalfOpen,
    /// The breaker lets one in twenty through while it is open.
    AsksWhileOpen,
    /// The breaker stays open for ever.
    NeverCloses,
    /// The degraded mode starts afresh with each outage.
    HandsOutFreshBuckets,
    /// The degraded mode passes for the store.
    HidesThatItIsDegraded,
    /// The deny cache holds for four times as long.
    RemembersTooLong,
    /// The deny cache is not told of resets.
    RemembersAfterReset,
    /// The store: see `Flaw`.
    StoreForgetsAdmissions,
    /// The store: see `Flaw`.
    StoreForgetsWhenTheClockStepsBack,
}

impl Bug {
    pub(crate) const ALL: [Self; 15] = [
        Self::RetriesUnknown,
        Self::ChargesTwice,
        Self::SwapsAnswers,
        Self::SaysNotApplied,
        Self::ForgetsTheDeadline,
        Self::WaitsLonger,
        Self::LetsAllThroughHalfOpen,
        Self::AsksWhileOpen,
        Self::NeverCloses,
        Self::HandsOutFreshBuckets,
        Self::HidesThatItIsDegraded,
        Self::RemembersTooLong,
        Self::RemembersAfterReset,
        Self::StoreForgetsAdmissions,
        Self::StoreForgetsWhenTheClockStepsBack,
    ];

    /// The invariants by which it may be found.
    pub(crate) const fn breaks(self) -> &'static [&'static str] {
        match self {
            Self::RetriesUnknown | Self::ChargesTwice | Self::SaysNotApplied => &["I7"],
            Self::SwapsAnswers => &["answers"],
            Self::ForgetsTheDeadline | Self::WaitsLonger => &["I11"],
            Self::LetsAllThroughHalfOpen | Self::AsksWhileOpen => &["I11"],
            Self::NeverCloses => &["I13"],
            Self::HandsOutFreshBuckets => &["degraded", "I10"],
            Self::HidesThatItIsDegraded => &["answers"],
            Self::RemembersTooLong | Self::RemembersAfterReset => &["remembered"],
            Self::StoreForgetsAdmissions | Self::StoreForgetsWhenTheClockStepsBack => &["reference"],
        }
    }
}

/// A layer with one bug around `inner`.
pub(crate) struct Wrong {
    bug: Bug,
    inner: Inner,
    /// What is below `inner`, and the breaker that it is.
    below: Option<(Inner, Arc<Breaker<Inner>>)>,
    calls: AtomicU64,
    is_set: AtomicBool,
    degrade: DegradeConfig,
    fresh: Mutex<Arc<Degrade<Inner>>>,
}

impl Wrong {
    pub(crate) fn new(bug: Bug, inner: Inner, layers: &Layers) -> Self {
        let fresh = Mutex::new(Arc::new(Degrade::new(inner.clone(), layers.degrade)));
        let (calls, is_set) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { bug, inner, below: None, calls, is_set, degrade: layers.degrade, fresh }
    }

    pub(crate) fn with(self, below: Inner, breaker: Arc<Breaker<Inner>>) -> Self {
        Self { below: Some((below, breaker)), ..self }
    }

    fn is_one_in(&self, many: u64) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed) % many == many - 1
    }

    fn state(&self) -> BreakerState {
        self.below.as_ref().map_or(BreakerState::Closed, |(_, breaker)| state_of(breaker))
    }

    /// Where the breaker is passed by.
    fn passes_by(&self) -> Option<&Inner> {
        let is_passed = match self.bug {
            Bug::LetsAllThroughHalfOpen => self.state() == BreakerState::Recovering,
            Bug::AsksWhileOpen => self.state() == BreakerState::Open && self.is_one_in(20),
            _ => false,
        };
        self.below.as_ref().filter(|_| is_passed).map(|(below, _)| below)
    }

    /// Open for ever, once it has been.
    fn refusal(&self) -> Option<BackendError> {
        if self.bug == Bug::NeverCloses && self.state() == BreakerState::Open {
            self.is_set.store(true, Ordering::Relaxed);
        }
        let refused =
            || BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, "wrong", "decide", "open");
        self.is_set.load(Ordering::Relaxed).then(refused)
    }

    /// A local limit that is new whenever the store is gone again.
    async fn decide_afresh(&self, batch: &[Request]) -> Vec<Answer> {
        let current = Arc::clone(&self.fresh.lock().unwrap());
        let answers = current.decide(batch).await;
        let is_degraded =
            answers.iter().flatten().flat_map(Verdict::decisions).any(|d| d.origin == Origin::Degraded);
        if is_degraded && !self.is_set.swap(is_degraded, Ordering::Relaxed) {
            *self.fresh.lock().unwrap() = Arc::new(Degrade::new(self.inner.clone(), self.degrade));
        } else if !is_degraded {
            self.is_set.store(false, Ordering::Relaxed);
        }
        answers
    }
}

fn without_deadline(request: &Request) -> Request {
    let bare = Request::new(request.checks().iter().cloned()).unwrap();
    match request.instant() {
        Some(at) => bare.at(at),
        None => bare,
    }
}

fn as_if_by_store(verdict: &Verdict) -> Verdict {
    let decisions = verdict.decisions().iter().map(|decision| {
        let mut decision = *decision;
        decision.origin = Origin::Store;
        decision
    });
    decisions.collect()
}

#[async_trait]
impl Backend for Wrong {
    async fn decide(&self, batch: &[Request]) -> Vec<Answer> {
        if self.bug == Bug::HandsOutFreshBuckets {
            return self.decide_afresh(batch).await;
        }
        if let Some(below) = self.passes_by() {
            return below.decide(batch).await;
        }
        if let Some(refusal) = self.refusal() {
            return vec![Err(refusal); batch.len()];
        }
        if self.bug == Bug::ForgetsTheDeadline {
            let batch: Vec<Request> = batch.iter().map(without_deadline).collect();
            return self.inner.decide(&batch).await;
        }
        let mut answers = self.inner.decide(batch).await;
        let is_unknown = |answer: &Answer| answer.as_ref().is_err_and(|e| e.effect() == Effect::Unknown);
        match self.bug {
            Bug::RetriesUnknown if answers.iter().any(is_unknown) => answers = self.inner.decide(batch).await,
            Bug::ChargesTwice if self.is_one_in(50) => answers = self.inner.decide(batch).await,
            Bug::SwapsAnswers if answers.len() > 1 => answers.swap(0, 1),
            Bug::SaysNotApplied => {
                for answer in answers.iter_mut().filter(|answer| is_unknown(answer)) {
                    let message = "the connection broke";
                    *answer = Err(BackendError::new(
                        ErrorKind::Unavailable,
                        Effect::NotApplied,
                        "wrong",
                        "decide",
                        message,
                    ));
                }
            }
            Bug::HidesThatItIsDegraded => {
                answers.iter_mut().flatten().for_each(|verdict| *verdict = as_if_by_store(verdict));
            }
            _ => {}
        }
        answers
    }

    fn decide_now(&self, request: &Request) -> Option<Answer> {
        match self.bug {
            Bug::HandsOutFreshBuckets => Arc::clone(&self.fresh.lock().unwrap()).decide_now(request),
            Bug::LetsAllThroughHalfOpen | Bug::AsksWhileOpen | Bug::NeverCloses => self.refusal().map(Err),
            Bug::HidesThatItIsDegraded => {
                self.inner.decide_now(request).map(|answer| answer.map(|verdict| as_if_by_store(&verdict)))
            }
            _ => self.inner.decide_now(request),
        }
    }

    fn shard(&self, request: &Request) -> Shard {
        self.inner.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.inner.accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        match (self.bug, &self.below) {
            (Bug::RemembersAfterReset, Some((below, _))) => below.reset(keys).await,
            (Bug::HandsOutFreshBuckets, _) => {
                let current = Arc::clone(&self.fresh.lock().unwrap());
                current.reset(keys).await
            }
            _ => self.inner.reset(keys).await,
        }
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
