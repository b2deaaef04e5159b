//! The rows of the error table, reached on real servers: what each is called, and whether it may have been recorded.
//!
//! `ASK` and `TRYAGAIN` are followed in `faults/cluster.rs`, and `ready.rs` has a script whose user may not do all of it.
//! No server can be brought to the rest: a network that loses what was sent until TCP gives up, a connection that speaks
//! RESP and then something else, an error whose code nobody knows, settings that the driver finds to be wrong, and a
//! Redis so old that it does not know `HELLO`; here one has been told to forget it.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{answer, ask, bend, check, request, taken, until_answered};
use futures_util::FutureExt;
use limiter_core::{Backend, BackendError, Effect, ErrorKind, Request};
use limiter_redis::Redis;
use limiter_redis::redis::{Client, IntoConnectionInfo};
use limiter_testkit::servers::{self, RedisCluster, RedisSentinel};
use limiter_testkit::{Direction, Proxy};
use std::time::Duration;

const TEN: &str = "10/day";

fn connect(server: &servers::Redis) -> Redis {
    Redis::builder(server.url()).timeout(Duration::from_secs(2)).build().expect("a URL of Redis")
}

/// A server and a store that has used it once.
async fn used() -> (servers::Redis, Redis) {
    let server = servers::Redis::start().expect("a Redis");
    let redis = connect(&server);
    let _ = ask(&redis, TEN, "a").await.expect("a server that works");
    (server, redis)
}

fn is(error: &BackendError, kind: ErrorKind, effect: Effect) {
    assert_eq!(
        (error.kind(), error.effect()),
        (kind, effect),
        "{error}: {:?}",
        std::error::Error::source(error)
    );
}

/// What the next request is answered where it cannot be.
async fn refused(redis: &Redis) -> BackendError {
    ask(redis, TEN, "a").await.expect_err("a refusal")
}

/// After a refusal that is not applied: nothing more is taken once the cause is gone.
async fn took_only(redis: &Redis, expected: u64) {
    until_answered(redis, TEN, "b", Duration::from_secs(5)).await;
    assert_eq!(taken(redis, TEN, "a").await, expected);
}

#[tokio::test]
async fn noscript_is_no_error() {
    let (server, redis) = used().await;
    for expected in 2..=4 {
        bend(&server, &["SCRIPT", "FLUSH"]);
        let _ = ask(&redis, TEN, "a").await.expect("the script is sent again");
        assert_eq!(taken(&redis, TEN, "a").await, expected);
    }
}

#[tokio::test]
async fn busy() {
    let (server, redis) = used().await;
    bend(&server, &["CONFIG", "SET", "busy-reply-threshold", "20"]);
    let mut foreign = server.connect().expect("a connection");
    let looping = std::thread::spawn(move || foreign.command(&["EVAL", "while true do end", "0"]));
    // Until the script runs and for a while after, the server answers, or says nothing.
    let error = loop {
        match ask(&redis, TEN, "a").await {
            Err(error) if error.kind() != ErrorKind::Timeout => break error,
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let later = ask(&redis, TEN, "c").await.expect_err("a server that is still busy");
    bend(&server, &["SCRIPT", "KILL"]);
    looping.join().expect("a thread that ends").expect_err("a script that is killed");
    for error in [error, later] {
        is(&error, ErrorKind::Unavailable, Effect::NotApplied);
        assert!(error.to_string().contains("BUSY"), "{error}");
    }
    until_answered(&redis, TEN, "b", Duration::from_secs(5)).await;
    assert_eq!(taken(&redis, TEN, "c").await, 0);
}

#[tokio::test]
async fn loading() {
    let server = servers::Redis::builder()
        .config("enable-debug-command", "yes")
        .config("key-load-delay", "200")
        .config("loading-process-events-interval-bytes", "1024")
        .start()
        .expect("a Redis");
    bend(&server, &["DEBUG", "POPULATE", "20000"]);
    bend(&server, &["SAVE"]);
    let redis = connect(&server);
    server.kill();
    let server = std::sync::Arc::new(server);
    let restarted = std::sync::Arc::clone(&server);
    let restart = tokio::task::spawn_blocking(move || restarted.restart().expect("a server that comes up"));
    loop {
        // Down at first, then loading.
        let error = refused(&redis).await;
        is(&error, ErrorKind::Unavailable, Effect::NotApplied);
        if error.to_string().contains("LOADING") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    restart.await.expect("a server that has loaded");
    took_only(&redis, 0).await;
}

#[tokio::test]
async fn readonly() {
    let (server, redis) = used().await;
    let other = servers::Redis::start().expect("a Redis");
    bend(&server, &["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    let error = refused(&redis).await;
    is(&error, ErrorKind::Unavailable, Effect::NotApplied);
    assert!(error.to_string().contains("READONLY"), "{error}");
    bend(&server, &["REPLICAOF", "NO", "ONE"]);
    until_answered(&redis, TEN, "b", Duration::from_secs(5)).await;
}

#[tokio::test]
async fn masterdown() {
    let (server, redis) = used().await;
    bend(&server, &["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    bend(&server, &["REPLICAOF", "127.0.0.1", "1"]);
    let error = refused(&redis).await;
    is(&error, ErrorKind::Unavailable, Effect::NotApplied);
    assert!(error.to_string().contains("MASTERDOWN"), "{error}");
    bend(&server, &["REPLICAOF", "NO", "ONE"]);
    took_only(&redis, 1).await;
}

#[tokio::test]
async fn out_of_memory() {
    let (server, redis) = used().await;
    bend(&server, &["CONFIG", "SET", "maxmemory", "1"]);
    let error = refused(&redis).await;
    is(&error, ErrorKind::Unavailable, Effect::NotApplied);
    assert!(error.to_string().contains("OOM"), "{error}");
    bend(&server, &["CONFIG", "SET", "maxmemory", "0"]);
    took_only(&redis, 1).await;
}

#[tokio::test]
async fn misconf() {
    let server =
        servers::Redis::builder().config("enable-protected-configs", "yes").start().expect("a Redis");
    let redis = connect(&server);
    let _ = ask(&redis, TEN, "a").await.expect("a server that works");
    let gone = server.folder().join("gone");
    std::fs::create_dir(&gone).expect("a folder");
    bend(&server, &["CONFIG", "SET", "dir", &gone.to_string_lossy()]);
    std::fs::remove_dir(&gone).expect("a folder that goes");
    bend(&server, &["CONFIG", "SET", "save", "3600 1"]);
    bend(&server, &["BGSAVE"]);
    while server.info("rdb_last_bgsave_status").expect("an answer").as_deref() != Some("err") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = refused(&redis).await;
    is(&error, ErrorKind::Unavailable, Effect::NotApplied);
    assert!(error.to_string().contains("MISCONF"), "{error}");
    bend(&server, &["CONFIG", "SET", "save", ""]);
    took_only(&redis, 1).await;
}

#[tokio::test]
async fn noreplicas() {
    let (server, redis) = used().await;
    bend(&server, &["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let error = refused(&redis).await;
    is(&error, ErrorKind::Unavailable, Effect::NotApplied);
    assert!(error.to_string().contains("NOREPLICAS"), "{error}");
    bend(&server, &["CONFIG", "SET", "min-replicas-to-write", "0"]);
    took_only(&redis, 1).await;
}

#[tokio::test]
async fn noauth_and_wrongpass() {
    let server = servers::Redis::builder().password("right7").start().expect("a Redis");
    let _ = ask(&connect(&server), TEN, "a").await.expect("the right password");
    for login in ["", ":wrong-canary@", "nobody:wrong-canary@"] {
        let url = format!("redis://{login}127.0.0.1:{}", server.port());
        let redis = Redis::connect(url).expect("a URL of Redis");
        let error = refused(&redis).await;
        is(&error, ErrorKind::Config, Effect::NotApplied);
        let shown = format!("{error} {error:?} {:?} {redis:?}", std::error::Error::source(&error));
        assert!(!shown.contains("canary"), "{shown}");
    }
}

#[tokio::test]
async fn noperm() {
    let (server, _) = used().await;
    bend(&server, &["ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@connection", "+get"]);
    let url = format!("redis://weak:pw@127.0.0.1:{}", server.port());
    let redis = Redis::connect(url).expect("a URL of Redis");
    let error = refused(&redis).await;
    is(&error, ErrorKind::Config, Effect::NotApplied);
    assert!(error.to_string().contains("NOPERM"), "{error}");
}

/// A foreign value under our key is overwritten: it can be nobody's limit.
#[tokio::test]
async fn wrongtype_heals() {
    let (server, redis) = used().await;
    for (text, reported) in [("10/day", 0), ("10/day fixed-window", 0), ("10/day sliding-log", 1)] {
        let before = redis.corrupt_states();
        let _ = ask(&redis, text, "type").await.expect("an answer");
        let keys = server.command(&["KEYS", "*type"]).expect("keys");
        let key = keys.items()[0].text().expect("a name").to_owned();
        bend(&server, &["DEL", &key]);
        bend(&server, &["RPUSH", &key, "x"]);
        assert!(ask(&redis, text, "type").await.expect("an answer").allowed());
        assert_eq!(taken(&redis, text, "type").await, 1, "{text}");
        assert_eq!(redis.corrupt_states() - before, reported, "{text}");
        bend(&server, &["DEL", &key]);
    }
}

/// What cannot be read is not as if never used.
#[tokio::test]
async fn a_log_that_may_not_be_read_admits_nobody() {
    const ONE: &str = "1/day sliding-log";
    let (server, redis) = used().await;
    assert!(ask(&redis, ONE, "a").await.expect("an answer").allowed());
    bend(&server, &["ACL", "SETUSER", "default", "-getrange"]);
    let error = ask(&redis, ONE, "a").await.expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    bend(&server, &["ACL", "SETUSER", "default", "+getrange"]);
    assert!(!ask(&redis, ONE, "a").await.expect("an answer").allowed());
    assert_eq!(redis.corrupt_states(), 0);
}

/// Of three, the first or the second, where the last is all that is read at first.
#[tokio::test]
async fn a_damaged_record_within_a_log_is_reported_and_spoils_no_other_key() {
    const THREE: &str = "3/day sliding-log";
    let (server, redis) = used().await;
    for (name, offset) in [("first", "0"), ("second", "35")] {
        for _ in 0..3 {
            assert!(ask(&redis, THREE, name).await.expect("an answer").allowed());
        }
        let keys = server.command(&["KEYS", &format!("*{name}")]).expect("keys");
        let log = keys.items()[0].text().expect("a name").as_bytes();
        server.command(&[b"SETRANGE", log, offset.as_bytes(), &[0xff; 7]]).expect("damage");
        let before = redis.corrupt_states();
        let cost = if name == "first" { 1 } else { 2 };
        let batch = [
            request(TEN, name),
            Request::one(check(THREE, name, cost)).expect("a check"),
            request(TEN, name),
        ];
        let allowed: Vec<bool> = redis
            .decide(&batch)
            .await
            .into_iter()
            .map(|answer| answer.expect("an answer").allowed())
            .collect();
        assert_eq!(allowed, [true, false, true], "{name}");
        assert!(redis.corrupt_states() > before, "{name}");
    }
}

#[tokio::test]
async fn max_clients() {
    let (server, redis) = used().await;
    bend(&server, &["CONFIG", "SET", "maxclients", "1"]);
    let _ = ask(&redis, TEN, "a").await.expect("the one client that may");
    is(&refused(&connect(&server)).await, ErrorKind::Unavailable, Effect::NotApplied);

    // The server closes behind its refusal. To read it takes a driver that asks for no more than one answer, and a
    // server that has not been sent anything when it closes.
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    proxy.delay(Direction::ToServer, Duration::from_secs(1));
    let info = format!("redis://{}?protocol=resp3", proxy.addr()).into_connection_info().expect("a URL");
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    let client = Client::open(info.set_redis_settings(settings)).expect("a client");
    let late = Redis::from_client(client).timeout(Duration::from_secs(2)).build().expect("a client");
    let error = refused(&late).await;
    is(&error, ErrorKind::Unavailable, Effect::NotApplied);
    let cause = format!("{:?}", std::error::Error::source(&error));
    assert!(cause.contains("max number of clients"), "{error}: {cause}");
}

/// A node of a cluster, taken for a server that has all.
#[tokio::test]
async fn moved_and_crossslot() {
    let cluster = RedisCluster::start(3, 0).expect("a cluster");
    let redis = connect(&cluster.nodes()[0]);
    let mut moved = 0;
    for i in 0..20 {
        if let Err(error) = ask(&redis, TEN, &i.to_string()).await {
            is(&error, ErrorKind::Unavailable, Effect::NotApplied);
            assert!(error.to_string().contains("MOVED"), "{error}");
            moved += 1;
        }
    }
    assert!((1..20).contains(&moved), "{moved} of 20 keys are elsewhere");
    let two = Request::new([check(TEN, "a", 1), check(TEN, "b", 1)]).expect("keys that differ");
    let error = answer(&redis, &two).await.expect_err("keys of two slots");
    is(&error, ErrorKind::Config, Effect::NotApplied);
    assert!(error.to_string().contains("CROSSSLOT"), "{error}");
}

#[tokio::test]
async fn a_server_of_no_cluster() {
    let (server, redis) = used().await;
    let by_cluster = server.url().replace("redis://", "redis-cluster://");
    let error = refused(&Redis::connect(by_cluster).expect("a URL of Redis")).await;
    is(&error, ErrorKind::Config, Effect::NotApplied);
    assert!(error.to_string().contains("of no cluster"), "{error}");
    took_only(&redis, 1).await;
}

#[tokio::test]
async fn a_server_without_hello() {
    let server = servers::Redis::builder().config("rename-command", "HELLO none").start().expect("a Redis");
    let error = refused(&connect(&server)).await;
    is(&error, ErrorKind::Config, Effect::NotApplied);
    let redis = Redis::connect(format!("{}?protocol=resp2", server.url())).expect("a URL of Redis");
    let _ = ask(&redis, TEN, "a").await.expect("an answer in RESP2");
}

/// Theirs is not that of the primary.
#[tokio::test]
async fn a_sentinel_that_asks_for_a_password() {
    let sentinel = RedisSentinel::start().expect("sentinels");
    for one in sentinel.sentinels() {
        bend(one, &["ACL", "SETUSER", "default", "resetpass", ">right 7"]);
    }
    let hosts: Vec<String> = sentinel.sentinel_urls().iter().map(|url| url.replace("redis://", "")).collect();
    let by = |query: &str| {
        let url = format!("redis-sentinel://{}/{}{query}", hosts.join(","), RedisSentinel::SERVICE);
        Redis::builder(url).timeout(Duration::from_secs(2)).build().expect("a URL of Redis")
    };
    is(&refused(&by("")).await, ErrorKind::Config, Effect::NotApplied);
    is(&refused(&by("?sentinel_password=wrong")).await, ErrorKind::Config, Effect::NotApplied);
    for right in
        ["?sentinel_password=right%207", "?sentinel_username=default&db=0&sentinel_password=right%207"]
    {
        let redis = by(right);
        assert!(!format!("{redis:?}").contains("right"), "{redis:?}");
        let _ = ask(&redis, TEN, "a").await.expect("an answer");
    }
}

#[tokio::test]
async fn a_service_that_no_sentinel_knows() {
    let sentinel = RedisSentinel::start().expect("sentinels");
    // One that is not there tells less.
    sentinel.sentinels()[2].kill();
    let hosts: Vec<String> = sentinel.sentinel_urls().iter().map(|url| url.replace("redis://", "")).collect();
    let redis = Redis::builder(format!("redis-sentinel://{}/other", hosts.join(",")))
        .timeout(Duration::from_secs(2))
        .build()
        .expect("a URL of Redis");
    let error = refused(&redis).await;
    is(&error, ErrorKind::Unavailable, Effect::NotApplied);
    assert!(error.to_string().contains("master name not found"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_no_redis() {
    let memcached = servers::Memcached::start().expect("a Memcached");
    let redis = Redis::connect(format!("redis://{}", memcached.addr())).expect("a URL of Redis");
    is(&refused(&redis).await, ErrorKind::Unavailable, Effect::NotApplied);
}

#[tokio::test]
async fn refused_connections() {
    let (server, _) = used().await;
    server.kill();
    is(&refused(&connect(&server)).await, ErrorKind::Unavailable, Effect::NotApplied);
    let gone =
        Redis::connect(format!("redis+unix://{}/none.sock", server.folder().display())).expect("a URL");
    is(&refused(&gone).await, ErrorKind::Unavailable, Effect::NotApplied);
}

/// A call that timed out is applied when the server wakes, once: it was not sent again.
#[tokio::test]
async fn a_reply_that_does_not_come() {
    let (server, _) = used().await;
    let redis =
        Redis::builder(server.url()).timeout(Duration::from_millis(50)).build().expect("a URL of Redis");
    let _ = ask(&redis, TEN, "a").await.expect("an answer");
    server.pause();
    is(&refused(&redis).await, ErrorKind::Timeout, Effect::Unknown);
    server.resume();
    took_only(&redis, 3).await;
}

/// Wherever the reply is cut, the request was charged exactly once.
#[tokio::test]
async fn a_cut_reply_charges_once() {
    let server = servers::Redis::start().expect("a Redis");
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    let redis = Redis::connect(format!("redis://{}", proxy.addr())).expect("a URL of Redis");
    for cut in 0..8 {
        let name = format!("cut {cut}");
        until_answered(&redis, TEN, "warm", Duration::from_secs(5)).await;
        proxy.cut_reply_after(cut);
        let error = ask(&redis, TEN, &name).await.expect_err("a reply that is cut");
        is(&error, ErrorKind::Unavailable, Effect::Unknown);
        proxy.heal();
        until_answered(&redis, TEN, "warm", Duration::from_secs(5)).await;
        assert_eq!(taken(&redis, TEN, &name).await, 1, "cut after {cut} bytes");
    }
}

#[tokio::test]
async fn a_blackhole_is_left_behind() {
    let server = servers::Redis::start().expect("a Redis");
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    let redis = Redis::builder(format!("redis://{}", proxy.addr()))
        .timeout(Duration::from_millis(50))
        .build()
        .expect("a URL of Redis");
    let _ = ask(&redis, TEN, "a").await.expect("an answer");
    proxy.blackhole(Direction::ToClient);
    is(&refused(&redis).await, ErrorKind::Timeout, Effect::Unknown);
    proxy.heal();
    until_answered(&redis, TEN, "b", Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_deadline_that_has_passed_sends_nothing() {
    let (_server, redis) = used().await;
    let late = request(TEN, "a").with_deadline(tokio::time::Instant::now());
    let batch = [request(TEN, "b"), late, request(TEN, "b")];
    let answers = redis.decide(&batch).await;
    assert!(answers[0].is_ok() && answers[2].is_ok());
    is(answers[1].as_ref().expect_err("a deadline that has passed"), ErrorKind::Timeout, Effect::NotApplied);
    assert_eq!((taken(&redis, TEN, "a").await, taken(&redis, TEN, "b").await), (1, 2));
}

/// What waits for a connection at its deadline has not left, for certain.
#[tokio::test]
async fn a_deadline_while_connecting_is_not_applied() {
    let server = servers::Redis::start().expect("a Redis");
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    proxy.blackhole(Direction::Both);
    let redis = Redis::connect(format!("redis://{}", proxy.addr())).expect("a URL of Redis");
    let soon = tokio::time::Instant::now() + Duration::from_millis(20);
    let error = answer(&redis, &request(TEN, "a").with_deadline(soon)).await.expect_err("no connection");
    is(&error, ErrorKind::Timeout, Effect::NotApplied);
    proxy.heal();
    took_only(&redis, 0).await;
}

#[tokio::test]
async fn too_many_calls_are_refused_at_once() {
    let (server, _) = used().await;
    let redis = Redis::builder(server.url()).max_in_flight(4).build().expect("a URL of Redis");
    let _ = ask(&redis, TEN, "a").await.expect("an answer");
    server.pause();
    let calls = (0..6).map(|_| {
        let redis = redis.clone();
        tokio::spawn(async move { refused(&redis).await })
    });
    let mut not_applied = 0;
    for call in calls.collect::<Vec<_>>() {
        let error = call.await.expect("a task that ends");
        not_applied += u32::from(error.effect() == Effect::NotApplied);
    }
    server.resume();
    assert_eq!(not_applied, 2);
}

#[tokio::test]
async fn a_request_that_no_trip_can_carry_says_so() {
    let (_server, redis) = used().await;
    let checks = (0..5_000).map(|i| check(TEN, &i.to_string(), 1));
    let error = answer(&redis, &Request::new(checks).expect("keys that differ")).await.expect_err("too many");
    is(&error, ErrorKind::Config, Effect::NotApplied);
    assert!(error.to_string().contains("5000 checks are above 4096"), "{error}");
}

#[tokio::test]
async fn clusterdown() {
    let cluster = RedisCluster::start(3, 0).expect("a cluster");
    let redis =
        Redis::connect(cluster.urls()[0].replace("redis://", "redis-cluster://")).expect("a URL of Redis");
    until_answered(&redis, TEN, "a", Duration::from_secs(5)).await;
    cluster.nodes()[2].kill();
    // Two survivors need the third's slots to serve any.
    let mut codes = Vec::new();
    for i in 0_u32.. {
        if let Err(error) = ask(&redis, TEN, &i.to_string()).await {
            if error.to_string().contains("CLUSTERDOWN") {
                is(&error, ErrorKind::Unavailable, Effect::NotApplied);
                break;
            }
            codes.push(error.to_string());
        }
        assert!(i < 5_000, "no CLUSTERDOWN: {codes:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(redis.ready().await.is_err());
}

/// Who has more time goes without who had not.
#[tokio::test]
async fn a_short_deadline_fails_no_other_request_of_its_trip() {
    let server = servers::Redis::start().expect("a Redis");
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    proxy.delay(Direction::Both, Duration::from_millis(30));
    let redis = Redis::builder(format!("redis://{}", proxy.addr()))
        .timeout(Duration::from_secs(5))
        .build()
        .expect("a URL of Redis");
    let by = |millis| tokio::time::Instant::now() + Duration::from_millis(millis);
    let batch = [
        request(TEN, "a").with_deadline(by(5_000)),
        request(TEN, "b").with_deadline(by(5)),
        request(TEN, "c").with_deadline(by(5_000)),
    ];
    let answers = redis.decide(&batch).await;
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    is(answers[1].as_ref().expect_err("too late"), ErrorKind::Timeout, Effect::NotApplied);
    assert_eq!((taken(&redis, TEN, "a").await, taken(&redis, TEN, "b").await), (1, 0));
}

/// A server that does not know a command quotes it, keys and all; nobody else is to see that.
#[tokio::test]
async fn an_unknown_command_shows_no_key() {
    let server = servers::Redis::builder().config("rename-command", "EVALSHA none").start().expect("a Redis");
    let error = ask(&connect(&server), TEN, "canary").await.expect_err("a command that is not there");
    is(&error, ErrorKind::Config, Effect::NotApplied);
    let shown = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn numbers_without_end_have_one() {
    let (server, _) = used().await;
    let redis = Redis::builder(server.url())
        .timeout(Duration::MAX)
        .connect_timeout(Duration::MAX)
        .max_in_flight(usize::MAX)
        .build()
        .expect("a URL of Redis");
    let _ = ask(&redis, TEN, "a").await.expect("an answer");
}

#[test]
fn a_store_that_could_send_nothing_is_not_built() {
    let error = Redis::builder("redis://127.0.0.1:1").max_in_flight(0).build().expect_err("no calls");
    assert_eq!(error.to_string(), "0 calls in flight are below the least, 1");
}

/// More slots than a server takes calls at once.
#[tokio::test]
async fn a_large_batch_over_a_cluster_is_answered_whole() {
    let cluster = RedisCluster::start(3, 0).expect("a cluster");
    let redis = Redis::builder(cluster.urls()[0].replace("redis://", "redis-cluster://"))
        .timeout(Duration::from_secs(20))
        .build()
        .expect("a URL of Redis");
    let batch: Vec<Request> = (0..6_000).map(|i| request(TEN, &i.to_string())).collect();
    let answers = redis.decide(&batch).await;
    let failed = answers.iter().filter_map(|answer| answer.as_ref().err()).next();
    assert!(failed.is_none(), "{failed:?}");
    let keys: Vec<_> = batch.iter().map(|request| request.checks()[0].key.clone()).collect();
    redis.reset(&keys).await.expect("a reset of all");
    assert_eq!(taken(&redis, TEN, "17").await, 0);
}

/// Also with a connection that was made where there was one.
#[test]
fn without_a_runtime_nothing_is_sent() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (_server, redis) = runtime.block_on(used());
    let now = |answer: Option<BackendError>| {
        is(&answer.expect("an error, at once"), ErrorKind::Config, Effect::NotApplied);
    };
    let asked = request(TEN, "a");
    now(answer(&redis, &asked).now_or_never().and_then(Result::err));
    now(redis.reset(&[asked.checks()[0].key.clone()]).now_or_never().and_then(Result::err));
    now(redis.ready().now_or_never().and_then(Result::err));
    assert_eq!(runtime.block_on(taken(&redis, TEN, "a")), 1);
}
