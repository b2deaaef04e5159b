//! What a case works with: a backend, keys that are its own, and instants.

use crate::harness::{Harness, Opened, Subject};
use crate::inside::Inside;
use limiter_core::{
    Algorithm, BackendError, Check, Decision, Keyspace, Quota, Request, StorageKey, Timestamp, Verdict,
};

/// A backend, and a namespace that no other case has.
///
/// Its helpers panic where the backend breaks its contract, which fails the case.
#[derive(Clone)]
pub(crate) struct Fixture {
    opened: Opened,
    namespace: String,
    harness: Harness,
}

/// Where virtual time starts; no multiple of anything.
const START: u64 = 1_795_465_002_435_613;

impl Fixture {
    pub(crate) fn new(opened: Opened, namespace: String, harness: Harness) -> Self {
        Self { opened, namespace, harness }
    }

    /// The backend.
    pub(crate) fn backend(&self) -> &dyn Subject {
        &*self.opened.backend
    }

    /// The look inside the store, of cases that need it.
    pub(crate) fn inside(&self) -> &dyn Inside {
        self.opened.inside.as_deref().expect("the look inside that the case needs")
    }

    pub(crate) fn harness(&self) -> &Harness {
        &self.harness
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Another instance of the backend with the same namespace: the same keys, where they share a store.
    pub(crate) async fn another(&self) -> Self {
        self.harness.instance(&self.namespace).await
    }

    pub(crate) fn rule(&self, rule: &str, algorithm: Algorithm) -> Keyspace {
        Keyspace::new(&self.namespace, rule, algorithm).expect("the suite's names are short")
    }

    pub(crate) fn key(&self, algorithm: Algorithm, key: impl AsRef<[u8]>) -> StorageKey {
        self.rule("rule", algorithm).key(key.as_ref())
    }

    pub(crate) fn check(&self, key: impl AsRef<[u8]>, quota: Quota, cost: u64) -> Check {
        Check { key: self.key(quota.algorithm(), key), quota, cost }
    }

    /// The answer, by the way that a limiter takes: at once if it can be, else by `decide_one`.
    pub(crate) async fn ask(&self, request: &Request) -> Verdict {
        let answer = match self.backend().decide_now(request) {
            Some(answer) => answer,
            None => self.backend().decide_alone(request).await,
        };
        shaped(request, answer)
    }

    /// The answers to a batch, of which there must be one per request.
    pub(crate) async fn batch(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        let answers = self.backend().decide(batch).await;
        assert_eq!(answers.len(), batch.len(), "answers to a batch of {}", batch.len());
        answers
    }

    /// The answers to a batch in which none is an error.
    pub(crate) async fn verdicts(&self, batch: &[Request]) -> Vec<Verdict> {
        let answers = self.batch(batch).await.into_iter().zip(batch);
        answers.map(|(answer, request)| shaped(request, answer)).collect()
    }

    /// One check at an instant, in us after the start of virtual time.
    pub(crate) async fn one(&self, key: &str, quota: Quota, cost: u64, micros: u64) -> Decision {
        self.ask(&request([self.check(key, quota, cost)], micros)).await.decisions()[0]
    }
}

/// An instant of virtual time.
pub(crate) fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(START + micros).expect("the suite's instants are of this century")
}

/// A request at an instant of virtual time.
pub(crate) fn request(checks: impl IntoIterator<Item = Check>, micros: u64) -> Request {
    Request::new(checks).expect("the suite's checks make a request").at(at(micros))
}

/// A quota in its text form, under another algorithm.
pub(crate) fn quota(text: &str, algorithm: Algorithm) -> Quota {
    format!("{text} {algorithm}").parse().expect("the suite's quotas are accepted")
}

/// The verdict, of which there is one, with a decision per check.
pub(crate) fn shaped(request: &Request, answer: Result<Verdict, BackendError>) -> Verdict {
    let verdict = answer.expect("an answer");
    assert_eq!(verdict.decisions().len(), request.checks().len(), "decisions for the checks of a request");
    verdict
}
