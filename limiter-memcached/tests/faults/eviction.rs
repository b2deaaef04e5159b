//! A flood of keys until the server evicts: what that costs, and who says so.

use crate::common::{ask, patient, text, with_args};
use limiter_core::Backend;
use limiter_memcached::Memcached;

const TEN: &str = "10/day";

/// A used-up key is forgotten at last, which costs its capacity once more, and no more; `ready` says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_that_evicts_a_used_up_key_admits_one_capacity_more() {
    let server = with_args(&["-m", "2"]);
    let memcached = patient(&[server.addr()]);
    let mut admitted = 0;
    for _ in 0..20 {
        admitted += u64::from(ask(&memcached, TEN, "victim").await.expect("an answer").allowed());
    }
    assert_eq!(admitted, 10);
    memcached.ready().await.expect("a server that has evicted nothing");

    // Only while nobody asks for it: what is used is not what was used least recently. `me` does not count as use.
    let is_there =
        || !server.command(format!("me {}", text(TEN, "victim"))).expect("an answer").starts_with(b"EN");
    let mut flooded = 0_u32;
    while is_there() {
        assert!(flooded < 1_000_000, "it is still there after {flooded} keys");
        flood(&memcached, flooded, 5_000).await;
        flooded += 5_000;
    }
    assert_ne!(server.stat("evictions").expect("an answer").as_deref(), Some("0"));
    for _ in 0..20 {
        admitted += u64::from(ask(&memcached, TEN, "victim").await.expect("an answer").allowed());
    }
    assert_eq!(admitted, 20);
    println!("forgotten after {flooded} keys in 2 MB");

    let error = memcached.ready().await.expect_err("a server that evicts").to_string();
    assert!(error.contains("evicted") && error.contains("allow_eviction"), "{error}");
    let url = format!("memcached://{}", server.addr());
    let accepting = Memcached::builder(&url).allow_eviction().build().expect("a URL of Memcached");
    accepting.ready().await.expect("eviction is accepted");
}

/// Callers of so many keys that nobody has asked for.
async fn flood(memcached: &Memcached, from: u32, count: u32) {
    let callers = (0..32).map(|caller| {
        let memcached = memcached.clone();
        tokio::spawn(async move {
            for i in (from..from + count).filter(|i| i % 32 == caller) {
                let _ = ask(&memcached, "10/day", &format!("flood {i}")).await.expect("an answer");
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("a caller that does not panic");
    }
}
