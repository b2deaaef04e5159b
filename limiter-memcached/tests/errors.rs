//! Every row of the error table, reached on a real server: what it is called, and whether it may have been recorded.
//!
//! Three are scripted, as no server comes to say so on demand: a SERVER_ERROR that is about no room, a version from before
//! the meta commands, and writes that are applied behind one that is refused.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::script::{Say, Script};
use common::{answer, ask, check, key, patient, request, server, taken, until_answered, url, with_args};
use limiter_core::{
    Algorithm, Backend, BackendError, CasConfig, Check, Effect, ErrorKind, Quota, Request, Timestamp,
};
use limiter_memcached::Memcached;
use limiter_testkit::{Direction, Proxy, servers};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const TEN: &str = "10/day";

fn is(error: &BackendError, kind: ErrorKind, effect: Effect) {
    let source = std::error::Error::source(error);
    assert_eq!((error.kind(), error.effect()), (kind, effect), "{error}: {source:?}");
}

/// A server, a proxy in front of it, and a store that has used it once by way of the proxy.
async fn used() -> (servers::Memcached, Proxy, Memcached) {
    let server = server();
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    let memcached = Memcached::builder(url(&[proxy.addr()])).build().expect("a URL of Memcached");
    let _ = ask(&memcached, TEN, "a").await.expect("a server that works");
    (server, proxy, memcached)
}

/// What the next request is answered where it cannot be.
async fn refused(memcached: &Memcached, name: &str) -> BackendError {
    ask(memcached, TEN, name).await.expect_err("a refusal")
}

#[tokio::test]
async fn nobody_listens() {
    let (server, _, memcached) = used().await;
    server.kill();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let away = Memcached::connect(url(&[port])).expect("a URL of Memcached");
    is(&refused(&away, "a").await, ErrorKind::Unavailable, Effect::NotApplied);
    // The proxy takes the connection, and closes it.
    let error = refused(&memcached, "b").await;
    is(&error, ErrorKind::Unavailable, Effect::NotApplied);
}

#[tokio::test]
async fn a_name_that_is_none() {
    let away = Memcached::connect("memcached://no-such-host.invalid:1").expect("a URL of Memcached");
    let error = refused(&away, "a").await;
    assert_eq!(error.effect(), Effect::NotApplied);
    assert!(error.is_outage(), "{error}");
}

/// Nothing was sent but a read.
#[tokio::test]
async fn no_reply_to_a_read() {
    let (_server, proxy, memcached) = used().await;
    proxy.blackhole(Direction::Both);
    is(&refused(&memcached, "b").await, ErrorKind::Timeout, Effect::NotApplied);
    proxy.heal();
    until_answered(&memcached, TEN, "c", Duration::from_secs(5)).await;
    assert_eq!(taken(&memcached, TEN, "b").await, 0);
}

/// The version of the last write is known, so that a write is all that is sent; it is applied.
#[tokio::test]
async fn no_reply_to_a_write() {
    let (server, proxy, memcached) = used().await;
    proxy.blackhole(Direction::ToClient);
    is(&refused(&memcached, "a").await, ErrorKind::Timeout, Effect::Unknown);
    proxy.heal();
    until_answered(&memcached, TEN, "c", Duration::from_secs(5)).await;
    assert_eq!(taken(&memcached, TEN, "a").await, 2);
    let sets = server.stat("cmd_set").expect("an answer");
    assert_eq!(sets.as_deref(), Some("3"), "it was sent once: a, a and c");
}

#[tokio::test]
async fn a_connection_that_is_lost_before_the_reply_to_a_write() {
    let (_server, proxy, memcached) = used().await;
    proxy.cut_reply_after(1);
    is(&refused(&memcached, "a").await, ErrorKind::Unavailable, Effect::Unknown);
    proxy.heal();
    until_answered(&memcached, TEN, "c", Duration::from_secs(5)).await;
    assert_eq!(taken(&memcached, TEN, "a").await, 2);
}

#[tokio::test]
async fn a_connection_that_is_lost_before_the_reply_to_a_read() {
    let (_server, proxy, memcached) = used().await;
    proxy.cut_reply_after(1);
    is(&refused(&memcached, "b").await, ErrorKind::Unavailable, Effect::NotApplied);
    proxy.heal();
    until_answered(&memcached, TEN, "c", Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_connection_that_is_not_made_in_time() {
    let server = server();
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    proxy.blackhole(Direction::Both);
    let builder = Memcached::builder(url(&[proxy.addr()])).connect_timeout(Duration::from_millis(50));
    let memcached = builder.build().expect("a URL of Memcached");
    is(&refused(&memcached, "a").await, ErrorKind::Timeout, Effect::NotApplied);
}

/// After a failure callers are told at once, without a connection.
#[tokio::test]
async fn a_server_that_is_known_to_be_down() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let away = Memcached::connect(url(&[port])).expect("a URL of Memcached");
    let _first = refused(&away, "a").await;
    let error = refused(&away, "a").await;
    is(&error, ErrorKind::Unavailable, Effect::NotApplied);
    assert!(error.to_string().contains("was not asked"), "{error}");
}

#[tokio::test]
async fn a_server_that_wants_authentication() {
    let server = servers::Memcached::builder().authentication("user", "password").start();
    let server = server.unwrap_or_else(|error| panic!("{error}"));
    assert!(server.stat("version").expect("an answer").is_some());
    let memcached = patient(&[server.addr()]);
    for error in [refused(&memcached, "a").await, memcached.ready().await.expect_err("a refusal")] {
        is(&error, ErrorKind::Config, Effect::NotApplied);
        assert!(error.to_string().contains("authentication"), "{error}");
    }
}

#[tokio::test]
async fn a_server_without_versions() {
    let server = with_args(&["-C"]);
    let memcached = patient(&[server.addr()]);
    // Absent keys have none in any case: the first write is an add.
    let _ = ask(&memcached, TEN, "a").await.expect("an answer");
    is(&refused(&memcached, "a").await, ErrorKind::Config, Effect::NotApplied);
    assert!(refused(&memcached, "a").await.to_string().contains("(-C)"));
    is(&memcached.ready().await.expect_err("a refusal"), ErrorKind::Config, Effect::NotApplied);
}

/// Full and told not to evict: the write is refused, and with it goes what it meant to replace. The loss is counted.
#[tokio::test]
async fn out_of_memory() {
    let server = with_args(&["-m", "2", "-M"]);
    let memcached = patient(&[server.addr()]);
    let _ = ask(&memcached, TEN, "a").await.expect("an answer");
    assert_eq!(taken(&memcached, TEN, "a").await, 1);
    // As many of the same size as there is room for.
    let name = |i: u32| format!("{i:0>width$}", width = common::text(TEN, "a").len());
    let set = |i: u32| format!("set {} 0 0 9\r\n123456789\r\n", name(i));
    let fill =
        |from: u32| server.command((from..from + 500).map(set).collect::<String>()).expect("an answer");
    let full =
        (0..100).map(|i| fill(i * 500)).find(|answer| answer.starts_with(b"SERVER_ERROR out of memory"));
    assert!(full.is_some(), "it takes whatever comes");
    let error = refused(&memcached, "a").await;
    is(&error, ErrorKind::Unavailable, Effect::NotApplied);
    assert!(error.to_string().contains("out of memory"), "{error}");
    assert_eq!(memcached.usage().lost_states, 1);
    assert_eq!(taken(&memcached, TEN, "a").await, 0);
}

/// Behind a refusal nobody can tell what became of a write. Here each was refused as well, and its item deleted: all of
/// them are counted.
#[tokio::test]
async fn out_of_memory_for_a_whole_exchange() {
    const LOG: &str = "100/day sliding-log";
    let server = with_args(&["-m", "3", "-M"]);
    let memcached = patient(&[server.addr()]);
    let class = |name: &str| {
        let item = server.command(format!("me {}", common::text(LOG, name))).expect("an answer");
        let item = String::from_utf8(item).expect("text");
        item.split(' ').find_map(|word| word.strip_prefix("cls=")).map(|class| class.trim().to_owned())
    };
    // Entries that are all of one length.
    let take = |name: &str, second: u64| {
        let at = Timestamp::from_micros((1_795_000_000 + second) * 1_000_000).expect("an instant");
        request(LOG, name).at(at)
    };
    // Logs that outgrow the room which their items have with the next admission.
    let mut length = 0;
    loop {
        let before = class("log --");
        let _ = answer(&memcached, &take("log --", length)).await.expect("an answer");
        if length > 5 && class("log --") != before {
            break;
        }
        length += 1;
    }
    let names: Vec<String> = (0..40).map(|i| format!("log {i:02}")).collect();
    for name in &names {
        for second in 0..length {
            let _ = answer(&memcached, &take(name, second)).await.expect("an answer");
        }
    }
    // No room is left for items of any size up to theirs, and some more.
    for size in (10..600).step_by(20) {
        let value = "v".repeat(size);
        let set = |i: u32| format!("set {size}:{i} 0 0 {size}\r\n{value}\r\n");
        let fill = |from: u32| server.command((from..from + 200).map(set).collect::<String>());
        let is_full = |answer: Vec<u8>| answer.windows(12).any(|word| word == b"SERVER_ERROR");
        assert!((0..400).any(|i| is_full(fill(i * 200).expect("an answer"))), "it takes whatever comes");
    }
    let batch: Vec<Request> = names.iter().map(|name| take(name, length)).collect();
    let errors: Vec<BackendError> =
        memcached.decide(&batch).await.into_iter().map(|answer| answer.expect_err("a refusal")).collect();
    let (refused, behind): (Vec<_>, Vec<_>) =
        errors.iter().partition(|error| error.effect() == Effect::NotApplied);
    for error in refused {
        is(error, ErrorKind::Unavailable, Effect::NotApplied);
    }
    assert!(behind.len() > 30, "{errors:?}");
    for error in behind {
        is(error, ErrorKind::Unavailable, Effect::Unknown);
        assert!(error.to_string().contains("refused a command that was sent before"), "{error}");
    }
    let gone = names.iter().filter(|name| class(name).is_none()).count() as u64;
    let lost = memcached.usage().lost_states;
    assert!(gone > 30 && (gone..=40).contains(&lost), "{gone} gone, {lost} counted");
}

/// A server that takes less than what was there when it was connected, which the driver does not notice. It refuses one
/// write, and is asked before the next.
#[tokio::test]
async fn too_large() {
    let (_server, proxy, memcached) = used().await;
    let small = with_args(&["-I", "16k", "-o", "slab_chunk_max=16384"]);
    proxy.set_upstream(small.addr());
    proxy.reset();
    tokio::time::sleep(Duration::from_millis(50)).await;
    // So many admissions more in a log, in one write.
    let log = Quota::new(100_000, Duration::from_secs(86_400)).algorithm(Algorithm::SlidingLog);
    let quota = log.build().expect("a quota");
    let take = |from: u64, count: u64| {
        let (memcached, check) = (memcached.clone(), Check { key: key(quota, "log"), quota, cost: 1 });
        async move {
            let batch: Vec<Request> = (from..from + count)
                .map(|i| {
                    let at = Timestamp::from_micros(1_795_465_002_435_613 + i).expect("an instant");
                    Request::one(check.clone()).expect("one check").at(at)
                })
                .collect();
            memcached.decide(&batch).await.pop().expect("an answer")
        }
    };
    assert_eq!(take(0, 4_000).await.expect("an answer").decisions()[0].remaining, 96_000);
    let error = take(4_000, 5_000).await.expect_err("a refusal");
    is(&error, ErrorKind::Config, Effect::NotApplied);
    assert!(error.to_string().contains("too large"), "{error}");
    assert_eq!(memcached.usage().lost_states, 1);
    let error = take(0, 8_100).await.expect_err("a refusal");
    is(&error, ErrorKind::Config, Effect::NotApplied);
    assert!(error.to_string().contains("above 15872"), "{error}");
    assert_eq!(small.stat("store_too_large").expect("an answer").as_deref(), Some("1"));
}

/// Behind a refusal in one exchange nobody can tell what was applied; here all of it was.
#[tokio::test]
async fn what_travels_behind_a_refusal_is_unknown() {
    let script = Script::new(
        |command, refused| {
            if command.starts_with(b"ms") && !refused { Say::Refuse } else { Say::Answer }
        },
    );
    let memcached = patient(&[script.address]);
    let batch: Vec<Request> = (0..3).map(|i| request(TEN, &i.to_string())).collect();
    let answers = memcached.decide(&batch).await;
    let effects: Vec<_> = answers.into_iter().map(|answer| answer.expect_err("an error")).collect();
    let not_applied = effects.iter().filter(|error| error.effect() == Effect::NotApplied).count();
    assert_eq!(not_applied, 1, "{effects:?}");
    for error in &effects {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}

/// With a text that says nothing of room: no item is lost by it.
#[tokio::test]
async fn another_error_of_the_server() {
    let refuses = |name: &'static [u8]| {
        Script::new(move |command, _| if command.starts_with(name) { Say::Fail } else { Say::Answer })
    };
    for script in [refuses(b"mg"), refuses(b"ms")] {
        let memcached = patient(&[script.address]);
        let error = refused(&memcached, "a").await;
        is(&error, ErrorKind::Unavailable, Effect::NotApplied);
        assert!(error.to_string().contains("answered SERVER_ERROR"), "{error}");
        assert_eq!(memcached.usage().lost_states, 0);
    }
}

/// Nothing is sent to it but the question which it is.
#[tokio::test]
async fn a_server_that_is_too_old() {
    let script = Script::of("STAT version 1.5.22", |_, _| panic!("it was sent a command"));
    let memcached = patient(&[script.address]);
    for error in [refused(&memcached, "a").await, memcached.ready().await.expect_err("a refusal")] {
        is(&error, ErrorKind::Config, Effect::NotApplied);
        assert!(error.to_string().contains("Memcached 1.5.22 is older than 1.6"), "{error}");
    }
}

/// Connections that others have, as many as the server takes.
fn crowd(server: &servers::Memcached) -> Vec<TcpStream> {
    let connection = || {
        let mut stream = TcpStream::connect(server.addr()).ok()?;
        stream.write_all(b"mn\r\n").ok()?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).ok()?;
        (answer == *b"MN\r\n").then_some(stream)
    };
    let crowd: Vec<_> = std::iter::from_fn(connection).take(100).collect();
    assert!(crowd.len() < 100, "it takes any number of connections");
    crowd
}

/// It was connected before, or was not.
#[tokio::test]
async fn a_server_that_has_connections_enough() {
    let server = with_args(&["-t", "1", "-c", "24"]);
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    let memcached = patient(&[proxy.addr()]);
    let _ = ask(&memcached, TEN, "a").await.expect("an answer");
    proxy.reset();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let crowd = crowd(&server);
    for memcached in [&memcached, &patient(&[server.addr()])] {
        // Keys to be read: a write can lose its answer, as the server closes the connection at once.
        for name in ["b", "c"] {
            let error = refused(memcached, name).await;
            is(&error, ErrorKind::Unavailable, Effect::NotApplied);
        }
    }
    drop(crowd);
    until_answered(&memcached, TEN, "d", Duration::from_secs(5)).await;
}

/// The server behind the connections becomes another, which the driver does not notice: what it answers to a read, and to
/// a write alone.
async fn becomes(another: SocketAddr) -> [BackendError; 2] {
    let server = server();
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    let config = CasConfig::new().remember(100, Duration::from_secs(60));
    let memcached = Memcached::builder(url(&[proxy.addr()])).timeout(Duration::from_secs(5)).cas(config);
    let memcached = memcached.build().expect("a URL of Memcached");
    let _ = ask(&memcached, TEN, "secret").await.expect("an answer");
    proxy.set_upstream(another);
    proxy.reset();
    tokio::time::sleep(Duration::from_millis(50)).await;
    [refused(&memcached, "read").await, refused(&memcached, "secret").await]
}

#[tokio::test]
async fn a_server_that_begins_to_want_authentication() {
    let strict = servers::Memcached::builder().authentication("user", "password").start();
    let strict = strict.unwrap_or_else(|error| panic!("{error}"));
    for error in becomes(strict.addr()).await {
        is(&error, ErrorKind::Config, Effect::NotApplied);
        assert!(error.to_string().contains("authentication"), "{error}");
    }
}

/// It understands no word, and what it answers has nothing to do with the protocol.
#[tokio::test]
async fn a_server_that_is_no_memcached() {
    let redis = servers::Redis::start().unwrap_or_else(|error| panic!("{error}"));
    let [read, write] = becomes(redis.addr()).await;
    is(&read, ErrorKind::Unexpected, Effect::NotApplied);
    is(&write, ErrorKind::Unexpected, Effect::Unknown);
    // It repeats what it does not understand.
    let shown = format!("{write} {write:?} {:?}", std::error::Error::source(&write));
    assert!(!shown.contains("secret"), "{shown}");
}

/// No error that is reached on the way prints a key.
#[tokio::test]
async fn no_error_shows_a_key() {
    let (server, proxy, memcached) = used().await;
    let mut shown = String::new();
    let mut show = |error: BackendError| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        shown += &format!("{error} {error:?} {source:?}\n");
    };
    let _ = ask(&memcached, TEN, "secret").await.expect("an answer");
    proxy.blackhole(Direction::ToClient);
    show(refused(&memcached, "secret").await);
    show(refused(&memcached, "secret").await);
    proxy.heal();
    until_answered(&memcached, TEN, "c", Duration::from_secs(5)).await;
    server.kill();
    show(refused(&memcached, "secret").await);
    show(refused(&memcached, "secret").await);
    show(memcached.reset(&[check(TEN, "secret", 1).key]).await.expect_err("a refusal"));
    assert!(!shown.contains("secret"), "{shown}");
}
