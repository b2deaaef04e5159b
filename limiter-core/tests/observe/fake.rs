//! A store that answers as it is told to.

use async_trait::async_trait;
use limiter_core::{
    Algorithm, Backend, BackendError, Check, Effect, ErrorKind, Figure, Keyspace, Locality, Memory, Origin,
    Quota, QuotaError, Request, Shard, StorageKey, Verdict,
};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) type Answer = Result<Verdict, BackendError>;

/// How long the store takes.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Takes {
    Nothing,
    So(Duration),
    Forever,
}

pub(crate) struct Fake {
    takes: Takes,
    answer: Box<dyn Fn(&Request) -> Answer + Send + Sync>,
    pub(crate) figures: Mutex<Vec<Figure>>,
    /// How often it was asked for its figures.
    pub(crate) reports: AtomicU64,
}

impl Fake {
    /// Answers each request so, without a wait if it takes nothing.
    pub(crate) fn new(takes: Takes, answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self { takes, answer: Box::new(answer), figures: Mutex::default(), reports: AtomicU64::new(0) }
    }

    /// Admits everything.
    pub(crate) fn admitting(takes: Takes) -> Self {
        Self::new(takes, |request| Ok(decided(request, |_| true, Origin::Store)))
    }

    /// Gives no answer, for this reason.
    pub(crate) fn failing(takes: Takes, kind: ErrorKind) -> Self {
        Self::new(takes, move |_| Err(error(kind)))
    }
}

pub(crate) fn error(kind: ErrorKind) -> BackendError {
    BackendError::new(kind, Effect::Unknown, "fake", "decide", "told to")
}

/// A verdict that admits the checks of some rules.
pub(crate) fn decided(request: &Request, admits: impl Fn(&str) -> bool, origin: Origin) -> Verdict {
    let decision = |check: &Check| {
        let verdict = Memory::new().decide_now(&Request::one(check.clone()).unwrap()).unwrap().unwrap();
        let mut decision = verdict.decisions()[0];
        decision.allowed = admits(check.key.keyspace().rule());
        decision.origin = origin;
        decision
    };
    request.checks().iter().map(decision).collect()
}

pub(crate) fn check(rule: &str, cost: u64) -> Check {
    let quota: Quota = "100/s".parse().unwrap();
    Check { key: Keyspace::new("observe", rule, Algorithm::TokenBucket).unwrap().key(b"key"), quota, cost }
}

pub(crate) fn ask(rule: &str) -> Request {
    Request::one(check(rule, 1)).unwrap()
}

#[async_trait]
impl Backend for Fake {
    async fn decide(&self, batch: &[Request]) -> Vec<Answer> {
        match self.takes {
            Takes::Nothing => {}
            Takes::So(time) => tokio::time::sleep(time).await,
            Takes::Forever => std::future::pending().await,
        }
        batch.iter().map(&self.answer).collect()
    }

    fn decide_now(&self, request: &Request) -> Option<Answer> {
        (self.takes == Takes::Nothing).then(|| (self.answer)(request))
    }

    fn shard(&self, _request: &Request) -> Shard {
        Shard::One(7)
    }

    fn accepts(&self, _quota: &Quota) -> Result<(), QuotaError> {
        Err(QuotaError::ZeroLimit)
    }

    async fn reset(&self, _keys: &[StorageKey]) -> Result<(), BackendError> {
        Err(error(ErrorKind::Contention))
    }

    async fn ready(&self) -> Result<(), BackendError> {
        Err(error(ErrorKind::Config))
    }

    fn locality(&self) -> Locality {
        Locality::Combining
    }

    fn may_forget(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "fake"
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        self.reports.fetch_add(1, Ordering::Relaxed);
        self.figures.lock().unwrap().iter().for_each(|figure| tell(*figure));
    }
}
