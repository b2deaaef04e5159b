//! When a connection is left, and how often one is made.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{answer, ask, bend, check, request, until_answered};
use limiter_core::{Backend, Effect, ErrorKind, Origin, Request, StandardConfig, standard};
use limiter_redis::Redis;
use limiter_testkit::servers::{self, RedisCluster, RedisSentinel};
use limiter_testkit::{Direction, Proxy};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TEN: &str = "10/day";
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

/// Calls that a server refuses in such a way that another server may be behind the next connection.
async fn refused_again_and_again(redis: &Redis, proxy: &Proxy, code: &str) {
    let (before, start, mut told) = (proxy.accepted(), Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(1) {
        if let Err(error) = ask(redis, TEN, "a").await {
            assert_eq!(error.effect(), Effect::NotApplied, "{error}");
            told += u32::from(error.to_string().contains(code));
        }
        // A replica answers what writes nothing.
        let peek = Request::one(check(TEN, "a", 0)).expect("one check");
        let _maybe = answer(redis, &peek).await;
    }
    let made = proxy.accepted() - before;
    assert!(told > 100, "{code} was told {told} times");
    assert!((1..20).contains(&made), "{made} connections for {told} calls");
}

/// One that was demoted is left for its successor; where there is none yet, not with every call.
#[tokio::test]
async fn refusals_do_not_make_a_connection_per_call() {
    let other = servers::Redis::start().expect("a Redis");
    for protocol in ["resp3", "resp2"] {
        let (server, proxy, url) = proxied();
        let redis = Redis::connect(format!("{url}?protocol={protocol}")).expect("a URL of Redis");
        let _ = ask(&redis, TEN, "a").await.expect("an answer");
        bend(&server, &["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
        refused_again_and_again(&redis, &proxy, "READONLY").await;
        bend(&server, &["CONFIG", "SET", "replica-serve-stale-data", "no"]);
        bend(&server, &["REPLICAOF", "127.0.0.1", "1"]);
        refused_again_and_again(&redis, &proxy, "MASTERDOWN").await;
        bend(&server, &["REPLICAOF", "NO", "ONE"]);
        until_answered(&redis, TEN, "a", Duration::from_secs(2)).await;

        bend(&server, &["CONFIG", "SET", "requirepass", "secret"]);
        let stranger = Redis::connect(format!("{url}?protocol={protocol}")).expect("a URL of Redis");
        refused_again_and_again(&stranger, &proxy, "NOAUTH").await;
    }
}

/// What answered for a while, as a connection that an idle server closed, is replaced at once.
#[tokio::test]
async fn a_proven_connection_that_is_cut_is_replaced_at_once() {
    let (_server, proxy, url) = proxied();
    let redis = Redis::connect(url).expect("a URL of Redis");
    let _ = ask(&redis, TEN, "a").await.expect("an answer");
    tokio::time::sleep(Duration::from_millis(600)).await;
    proxy.cut_reply_after(0);
    let error = ask(&redis, TEN, "a").await.expect_err("a reply that is cut");
    assert_eq!(error.effect(), Effect::Unknown, "{error}");
    let _ = ask(&redis, TEN, "a").await.expect("an answer over the next connection");
}

fn by_sentinel(sentinel: &RedisSentinel) -> Redis {
    let hosts: Vec<String> = sentinel.sentinel_urls().iter().map(|url| url.replace("redis://", "")).collect();
    let url = format!("redis-sentinel://{}/{}", hosts.join(","), RedisSentinel::SERVICE);
    Redis::connect(url).expect("a URL of Redis")
}

/// Wherever in the URL those are that hang, and those that are not there.
#[tokio::test]
async fn a_sentinel_that_hangs_holds_up_no_connection() {
    let sentinel = RedisSentinel::start().expect("sentinels");
    for hung in [&[0][..], &[1], &[0, 1], &[1, 2]] {
        hung.iter().for_each(|i| sentinel.sentinels()[*i].pause());
        let redis = by_sentinel(&sentinel);
        let took = until_answered(&redis, TEN, "a", Duration::from_secs(5)).await;
        assert!(took < Duration::from_secs(1), "{hung:?} hung: {took:?}");
        hung.iter().for_each(|i| sentinel.sentinels()[*i].resume());
    }
    sentinel.sentinels()[0].kill();
    sentinel.sentinels()[1].pause();
    until_answered(&by_sentinel(&sentinel), TEN, "a", Duration::from_secs(1)).await;
}

/// As with one server, so that an operator sees what to mend.
#[tokio::test]
async fn a_cluster_says_why_it_cannot_be_used() {
    let cluster = RedisCluster::start(3, 0).expect("a cluster");
    for node in cluster.nodes() {
        bend(node, &["CONFIG", "SET", "masterauth", "right7"]);
        bend(node, &["CONFIG", "SET", "requirepass", "right7"]);
    }
    let address = cluster.nodes()[0].addr();
    for (login, query, reason) in [
        ("", "", "NOAUTH"),
        ("", "?protocol=resp2", "NOAUTH"),
        (":wrong@", "", "WRONGPASS"),
        (":wrong@", "?protocol=resp2", "authentication failed"),
    ] {
        let redis = Redis::connect(format!("redis-cluster://{login}{address}{query}")).expect("a URL");
        for error in [ask(&redis, TEN, "a").await.map(|_| ()), redis.ready().await] {
            let error = error.expect_err("a login that is refused");
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::NotApplied), "{error}");
            let shown = format!("{error} {:?}", std::error::Error::source(&error));
            assert!(shown.contains(reason), "{login:?} {query:?}: {shown}");
        }
    }
    // What was refused once is asked again.
    let redis = Redis::connect(format!("redis-cluster://{address}")).expect("a URL");
    let error = ask(&redis, TEN, "a").await.expect_err("a login that is missing");
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    for node in cluster.nodes() {
        let mut connection = node.connect().expect("a connection");
        connection.command(&["AUTH", "right7"]).expect("a login");
        connection.command(&["CONFIG", "SET", "requirepass", ""]).expect("no password any more");
    }
    until_answered(&redis, TEN, "a", Duration::from_secs(5)).await;
}

/// The last refusal is not what is told much later.
#[tokio::test]
async fn a_cluster_that_came_up_meanwhile_answers_the_first_call() {
    let cluster = RedisCluster::start(3, 0).expect("a cluster");
    let proxy = Proxy::start(cluster.nodes()[0].addr()).expect("a proxy");
    let redis = Redis::connect(format!("redis-cluster://{}", proxy.addr())).expect("a URL");
    proxy.refuse();
    let error = ask(&redis, TEN, "a").await.expect_err("nobody listens");
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied), "{error}");
    proxy.heal();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _ = ask(&redis, TEN, "a").await.expect("an answer");
}

/// Each look at who has which slot asks over the connections that there are.
#[tokio::test]
async fn a_cluster_that_is_down_is_not_dialled_with_every_look() {
    let cluster = RedisCluster::start(3, 0).expect("a cluster");
    // By another name than its own, the seed is no server of the map.
    let proxy = Proxy::start(cluster.nodes()[0].addr()).expect("a proxy");
    let redis = Redis::connect(format!("redis-cluster://{}", proxy.addr())).expect("a URL");
    until_answered(&redis, TEN, "a", Duration::from_secs(5)).await;
    let received = || {
        let received = cluster.nodes()[1].info("total_connections_received").expect("an answer");
        received.and_then(|count| count.parse::<u64>().ok()).expect("a number")
    };
    cluster.nodes()[2].kill();
    let (start, mut downs) = (Instant::now(), 0);
    let (mut dialled, mut before) = (proxy.accepted(), received());
    while start.elapsed() < Duration::from_secs(4) {
        for i in 0_u32..20 {
            let error = ask(&redis, TEN, &i.to_string()).await.err();
            downs += u32::from(error.is_some_and(|error| error.to_string().contains("CLUSTERDOWN")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        if downs == 0 {
            (dialled, before) = (proxy.accepted(), received());
        }
    }
    assert!(downs > 100, "CLUSTERDOWN was told {downs} times");
    assert_eq!(proxy.accepted() - dialled, 0, "connections to the seed");
    // The count's own connection is one of them.
    assert!(received() - before <= 2, "connections to a server of the map");
}
