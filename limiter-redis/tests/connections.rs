//! When a connection is left, and how often one is made.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::request;
use limiter_core::{Backend, Origin, StandardConfig, standard};
use limiter_redis::Redis;
use limiter_testkit::servers;
use limiter_testkit::{Direction, Proxy};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MANY: &str = "100000/day";

/// A server behind a proxy, and a URL that leads there.
fn proxied() -> (servers::Redis, Proxy, String) {
    let server = servers::Redis::start().expect("a Redis");
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    let url = format!("redis://{}", proxy.addr());
    (server, proxy, url)
}

/// The layers around the store drop a call before the store's own time for a reply has passed.
#[tokio::test]
async fn a_connection_that_leads_nowhere_is_left_under_all_layers() {
    let (_server, proxy, url) = proxied();
    let stack = standard(Arc::new(Redis::connect(url).expect("a URL of Redis")), StandardConfig::new());
    let from_store = async || {
        let answer = stack.decide(&[request(MANY, "a")]).await.pop().expect("one answer");
        answer.is_ok_and(|verdict| verdict.decisions()[0].origin == Origin::Store)
    };
    let until_from_store = async || {
        let start = Instant::now();
        while !from_store().await {
            assert!(start.elapsed() < Duration::from_secs(20), "no answer from the store");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    until_from_store().await;
    let before = proxy.accepted();
    proxy.blackhole_accepted(Direction::Both);
    assert!(!from_store().await, "the connection leads somewhere");
    until_from_store().await;
    assert!(proxy.accepted() > before);
}
