//! Callers that go away poison no connection.

use crate::common::{answer, key, quota, server, taken, url};
use limiter_core::{Check, Request};
use limiter_memcached::Memcached;
use limiter_testkit::{Direction, Proxy};
use std::time::Duration;
use tokio::task::JoinSet;

/// Each key has a limit of its own, so that an answer which belongs to another key shows. Callers leave at any moment,
/// also in the middle of replies that come drop by drop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_caller_never_poisons_a_connection() {
    let server = server();
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    let memcached = Memcached::builder(url(&[proxy.addr()])).timeout(Duration::from_secs(5)).build();
    let memcached = memcached.expect("a URL of Memcached");
    proxy.drip(Direction::ToClient, 64, Duration::from_micros(300));
    let asked = |i: u64| {
        let quota = quota(&format!("{}/3000days fixed-window", 1_000 + i));
        Request::one(Check { key: key(quota, &i.to_string()), quota, cost: 1 }).expect("one check")
    };
    let (mut left, mut answered) = (0_u64, 0_u64);
    for round in 0..150 {
        let mut callers = JoinSet::new();
        for i in 0..24 {
            let (memcached, request) = (memcached.clone(), asked(i));
            callers.spawn(async move {
                // Two of three leave.
                let patience = if i % 3 == 0 { 5_000_000 } else { fastrand::u64(..3_000) };
                let answer = answer(&memcached, &request);
                match tokio::time::timeout(Duration::from_micros(patience), answer).await {
                    Ok(answer) => Some((i, answer.expect("an answer").decisions()[0])),
                    Err(_) => None,
                }
            });
        }
        while let Some(done) = callers.join_next().await {
            match done.expect("a caller that does not panic") {
                Some((i, decision)) => {
                    answered += 1;
                    assert_eq!(decision.limit, 1_000 + i);
                    let most = 1_000 + i - (if i % 3 == 0 { round + 1 } else { 1 });
                    assert!(decision.remaining <= most, "key {i}, round {round}: {decision:?}");
                }
                None => left += 1,
            }
        }
    }
    assert!(left > 500 && answered > 1_200, "{left} left, {answered} were answered");
    proxy.heal();
    for i in 0..24 {
        let text = format!("{}/3000days fixed-window", 1_000 + i);
        let taken = taken(&memcached, &text, &i.to_string()).await;
        let least = if i % 3 == 0 { 150 } else { 0 };
        assert!((least..=150).contains(&taken), "key {i}: {taken} taken");
    }
    // No connection was given up for a caller's sake.
    assert!(proxy.accepted() <= 8, "{} connections", proxy.accepted());
}
