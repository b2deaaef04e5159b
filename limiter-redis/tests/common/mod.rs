//! What the tests of the store share: requests, and how they are answered.
#![allow(dead_code, reason = "each test uses its own part")]

use limiter_core::{Backend, BackendError, Check, Keyspace, Quota, Request, StorageKey, Verdict};
use limiter_redis::Redis;
use limiter_testkit::servers;
use std::time::{Duration, Instant};

pub(crate) fn quota(text: &str) -> Quota {
    text.parse().expect("a quota that is accepted")
}

/// A key of a namespace of its own.
pub(crate) fn key(quota: Quota, key: &str) -> StorageKey {
    Keyspace::new("limiter-redis-tests", "rule", quota.algorithm()).expect("short names").key(key.as_bytes())
}

pub(crate) fn check(text: &str, name: &str, cost: u64) -> Check {
    let quota = quota(text);
    Check { key: key(quota, name), quota, cost }
}

pub(crate) fn request(text: &str, name: &str) -> Request {
    Request::one(check(text, name, 1)).expect("one check")
}

/// The answer to one permit of a key.
pub(crate) async fn ask(redis: &Redis, text: &str, name: &str) -> Result<Verdict, BackendError> {
    answer(redis, &request(text, name)).await
}

pub(crate) async fn answer(redis: &Redis, request: &Request) -> Result<Verdict, BackendError> {
    redis.decide(std::slice::from_ref(request)).await.pop().expect("one answer")
}

/// How many permits of a key are taken.
pub(crate) async fn taken(redis: &Redis, text: &str, name: &str) -> u64 {
    let peek = Request::one(check(text, name, 0)).expect("one check");
    let decision = answer(redis, &peek).await.expect("an answer").decisions()[0];
    decision.limit - decision.remaining
}

/// Sends a command to a server from outside; it must succeed.
pub(crate) fn bend(server: &servers::Redis, words: &[&str]) {
    server.command(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
}

/// Asks until the store answers, and how long that took.
pub(crate) async fn until_answered(redis: &Redis, text: &str, name: &str, most: Duration) -> Duration {
    let start = Instant::now();
    loop {
        match ask(redis, text, name).await {
            Ok(_) => return start.elapsed(),
            Err(error) if start.elapsed() > most => panic!("no answer within {most:?}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
