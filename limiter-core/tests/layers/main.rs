//! The layers that answer for a store which is slow, wrong or gone, around a store that is so at will.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod breaker;
mod deadline;
mod degrade;
mod degraded_bound;
mod deny_cache;
mod events;
#[path = "../common/now_or_never.rs"]
mod now_or_never;
#[path = "../common/remote.rs"]
mod remote;
mod standard;

use limiter_core::{
    Backend, BackendError, Check, Effect, ErrorKind, Keyspace, Quota, Request, Timestamp, Verdict,
};
use std::time::Duration;

type Answer = Result<Verdict, BackendError>;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn quota(text: &str) -> Quota {
    text.parse().unwrap()
}

fn check(key: &str, quota: Quota, cost: u64) -> Check {
    let keyspace = Keyspace::new("test", "layers", quota.algorithm()).unwrap();
    Check { key: keyspace.key(key.as_bytes()), quota, cost }
}

/// Asks for a thousandth of a second's worth.
fn ask(key: &str) -> Request {
    Request::one(check(key, quota("1000/s"), 1)).unwrap()
}

/// Virtual time.
fn at(millis: u64) -> Timestamp {
    Timestamp::from_micros(1_795_000_000_000_000 + millis * 1_000).unwrap()
}

async fn decide(backend: &impl Backend, request: &Request) -> Answer {
    let mut answers = backend.decide(std::slice::from_ref(request)).await;
    assert_eq!(answers.len(), 1);
    answers.pop().unwrap()
}

/// Kind and effect of the error that an answer is.
fn error_of(answer: &Answer) -> Option<(ErrorKind, Effect)> {
    answer.as_ref().err().map(|error| (error.kind(), error.effect()))
}
