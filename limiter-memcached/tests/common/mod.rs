//! What the tests of the store share: requests, and how they are answered.
#![allow(dead_code, reason = "each test uses its own part")]

pub(crate) mod script;

use limiter_core::{Backend, BackendError, Check, Keyspace, Quota, Request, StorageKey, Verdict};
use limiter_memcached::Memcached;
use limiter_testkit::servers;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) fn quota(text: &str) -> Quota {
    text.parse().expect("a quota that is accepted")
}

/// A key of a namespace of its own.
pub(crate) fn key(quota: Quota, key: &str) -> StorageKey {
    Keyspace::new("limiter-memcached-tests", "rule", quota.algorithm()).expect("short").key(key.as_bytes())
}

pub(crate) fn check(text: &str, name: &str, cost: u64) -> Check {
    let quota = quota(text);
    Check { key: key(quota, name), quota, cost }
}

pub(crate) fn request(text: &str, name: &str) -> Request {
    Request::one(check(text, name, 1)).expect("one check")
}

/// What Memcached calls the key, by a reader of the documentation.
pub(crate) fn text(text: &str, name: &str) -> String {
    let shown = |byte: &u8| match byte {
        b'!'..=b'~' if *byte != b'%' => char::from(*byte).to_string(),
        _ => format!("%{byte:02x}"),
    };
    key(quota(text), name).to_bytes().iter().map(shown).collect()
}

/// The answer to one permit of a key.
pub(crate) async fn ask(memcached: &Memcached, text: &str, name: &str) -> Result<Verdict, BackendError> {
    answer(memcached, &request(text, name)).await
}

pub(crate) async fn answer(memcached: &Memcached, request: &Request) -> Result<Verdict, BackendError> {
    memcached.decide(std::slice::from_ref(request)).await.pop().expect("one answer")
}

/// How many permits of a key are taken.
pub(crate) async fn taken(memcached: &Memcached, text: &str, name: &str) -> u64 {
    let peek = Request::one(check(text, name, 0)).expect("one check");
    let decision = answer(memcached, &peek).await.expect("an answer").decisions()[0];
    decision.capacity - decision.remaining
}

/// Asks until the store answers, and how long that took.
pub(crate) async fn until_answered(
    memcached: &Memcached,
    text: &str,
    name: &str,
    most: Duration,
) -> Duration {
    let start = Instant::now();
    loop {
        match ask(memcached, text, name).await {
            Ok(_) => return start.elapsed(),
            Err(error) if start.elapsed() > most => panic!("no answer within {most:?}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

pub(crate) fn server() -> servers::Memcached {
    servers::Memcached::start().unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn with_args(args: &[&str]) -> servers::Memcached {
    let server = servers::Memcached::builder().args(args.iter().copied()).start();
    server.unwrap_or_else(|error| panic!("{error}"))
}

/// The store of servers at these addresses, that waits for as long as a busy machine may take.
pub(crate) fn patient(addresses: &[SocketAddr]) -> Memcached {
    let (timeout, url) = (Duration::from_secs(5), url(addresses));
    Memcached::builder(url).timeout(timeout).connect_timeout(timeout).build().expect("a URL of Memcached")
}

pub(crate) fn url(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("memcached://{}", addresses.join(","))
}
