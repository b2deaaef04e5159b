//! A store that does as it is told, and remembers what it was asked.

use async_trait::async_trait;
use limiter_core::{
    Algorithm, Backend, BackendError, Check, Decision, Effect, ErrorKind, Figure, Keyspace, Locality, Memory,
    Quota, QuotaError, Request, Shard, StorageKey, Verdict,
};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

/// What the store does with a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Act {
    /// Answers at once.
    Now,
    /// Answers so much later.
    After(Duration),
    /// Never answers.
    Hang,
    /// Panics, so much later.
    Panic(Duration),
    /// Leaves out the last answers, so many.
    Short(usize),
}

/// What it does with the requests that come together.
type Behaviour = dyn Fn(&[u64]) -> Act + Send + Sync;

/// Requests are told apart by their cost.
pub(crate) struct FakeStore {
    act: Box<Behaviour>,
    seen: Mutex<Vec<Vec<u64>>>,
}

/// Requests of this cost and above are of the part `cost / PART`.
pub(crate) const PART: u64 = 1_000_000;

/// Requests of this cost and above need several parts.
pub(crate) const MANY: u64 = 10_000 * PART;

impl FakeStore {
    pub(crate) fn new(act: impl Fn(&[u64]) -> Act + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { act: Box::new(act), seen: Mutex::default() })
    }

    /// The batches that came, in their order.
    pub(crate) fn seen(&self) -> Vec<Vec<u64>> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.seen().iter().map(Vec::len).collect()
    }
}

static RULE: LazyLock<(Keyspace, Quota)> = LazyLock::new(|| {
    let quota = "1/s".parse().unwrap();
    (Keyspace::new("test", "fake", Algorithm::TokenBucket).unwrap(), quota)
});

static DECISION: LazyLock<Decision> = LazyLock::new(|| {
    let verdict = Memory::new().decide_now(&ask(1)).unwrap().unwrap();
    verdict.decisions()[0]
});

pub(crate) fn ask(id: u64) -> Request {
    let (keyspace, quota) = *RULE;
    Request::one(Check { key: keyspace.key(b"key"), quota, cost: id }).unwrap()
}

/// What the store answers: which request it was.
pub(crate) fn id_of(answer: &Result<Verdict, BackendError>) -> Option<u64> {
    answer.as_ref().ok().map(|verdict| verdict.decisions()[0].remaining)
}

/// Kind and effect of the error that an answer is.
pub(crate) fn error_of(answer: &Result<Verdict, BackendError>) -> Option<(ErrorKind, Effect)> {
    answer.as_ref().err().map(|error| (error.kind(), error.effect()))
}

#[async_trait]
impl Backend for FakeStore {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        let ids: Vec<u64> = batch.iter().map(|request| request.checks()[0].cost).collect();
        let act = (self.act)(&ids);
        self.seen.lock().unwrap().push(ids.clone());
        let mut answered = ids.len();
        match act {
            Act::Now => {}
            Act::After(delay) => tokio::time::sleep(delay).await,
            Act::Hang => std::future::pending().await,
            Act::Panic(delay) => {
                tokio::time::sleep(delay).await;
                // Without the hook, which would print it.
                std::panic::resume_unwind(Box::new("the store panics"));
            }
            Act::Short(missing) => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                answered = answered.saturating_sub(missing);
            }
        }
        let answer = |id| {
            let mut decision = *DECISION;
            decision.remaining = id;
            Ok(Verdict::one(decision))
        };
        ids.into_iter().take(answered).map(answer).collect()
    }

    fn decide_now(&self, request: &Request) -> Option<Result<Verdict, BackendError>> {
        let known = request.checks()[0].cost == 0;
        known.then(|| Ok(Verdict::one(*DECISION)))
    }

    fn shard(&self, request: &Request) -> Shard {
        match request.checks()[0].cost {
            cost if cost >= MANY => Shard::Many,
            cost => Shard::One((cost / PART).try_into().unwrap()),
        }
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        if quota.limit() < 1_000 {
            return Ok(());
        }
        Err(QuotaError::ZeroLimit)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        let message = format!("{} keys", keys.len());
        Err(BackendError::new(ErrorKind::Config, Effect::NotApplied, "fake", "reset", message))
    }

    async fn ready(&self) -> Result<(), BackendError> {
        Err(BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, "fake", "ready", "away"))
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    fn may_forget(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "fake"
    }

    fn report(&self, _tell: &mut dyn FnMut(Figure)) {}
}
