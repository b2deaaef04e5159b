//! What the server holds: keys with a time to live, where they belong, and how often a batch touches them.

use crate::cluster::{self, home, slot, tag};
use crate::common::{answer, bend, check, key};
use crate::stacks::{patient, patient_and_forgetful, stacks};
use limiter_core::{Algorithm, Backend, Check, Keyspace, Placement, Request};
use limiter_redis::Redis;
use limiter_testkit::faults::{Load, Plan, at, equals_reference, lasting};
use limiter_testkit::servers;
use limiter_testkit::servers::resp::Value;
use std::time::{Duration, Instant};

/// The names of all keys of a server.
fn names(server: &servers::Redis) -> Vec<Vec<u8>> {
    let keys = server.command(&["KEYS", "*"]).expect("keys");
    let name = |key: &Value| match key {
        Value::Bytes(bytes) => bytes.clone(),
        other => panic!("{other:?} is no name"),
    };
    keys.items().iter().map(name).collect()
}

/// Every key of ours has a time to live, or has gone meanwhile.
pub(crate) fn all_have_a_time_to_live(server: &servers::Redis) {
    let mut connection = server.connect().expect("a connection");
    if server.info("role").expect("an answer").as_deref() == Some("slave") {
        // In a cluster it would send us on.
        connection.command(&["READONLY"]).expect("a replica that may be read");
    }
    for name in names(server) {
        let left = connection.command(&[b"PTTL", &name[..]]).expect("a time to live").int();
        assert_ne!(left, Some(-1), "{} has no time to live", String::from_utf8_lossy(&name));
    }
}

fn server_and_store() -> (servers::Redis, Redis) {
    let server = servers::Redis::start().expect("a Redis");
    let redis = patient(&server);
    (server, redis)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_has_a_time_to_live() {
    let (server, redis) = server_and_store();
    let stacks = stacks(&Redis::builder(server.url()));
    let load = Load::start(Plan::new(1), &stacks);
    load.answers(500).await;
    let _ = load.check(&redis).await;
    equals_reference(&redis).await;
    // A log that drops what has left by copying the rest, and one that is prolonged again and again.
    let log = |text: &str, i: u64| Request::one(check(text, "long", 1)).expect("a check").at(at(i * 100_000));
    for i in 0..300 {
        let _ = answer(&redis, &log("100/7s sliding-log", i)).await.expect("an answer");
        let _ = answer(&redis, &log("1000/20s sliding-log", i)).await.expect("an answer");
    }
    // A log that was damaged is mended.
    let damaged = names(&server).into_iter().find(|name| name.ends_with(b"long")).expect("a log");
    server.command(&[b"SETRANGE", &damaged[..], b"3", b"xxxx"]).expect("damage");
    let _ = answer(&redis, &log("100/7s sliding-log", 301)).await.expect("an answer");
    all_have_a_time_to_live(&server);
}

#[tokio::test]
async fn a_state_is_gone_after_its_time() {
    let server = servers::Redis::start().expect("a Redis");
    let redis = patient_and_forgetful(&server);
    for algorithm in Algorithm::ALL {
        let taking = Request::one(check(&format!("20/100ms {algorithm}"), "short", 3)).expect("a check");
        assert!(answer(&redis, &taking).await.expect("an answer").allowed());
    }
    assert!(!names(&server).is_empty());
    let start = Instant::now();
    while !names(&server).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(5), "{} states are left", names(&server).len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// When a bucket is full again, by its state.
fn full_at(state: &[u8]) -> u64 {
    match state.as_chunks::<8>() {
        ([whole, rest, _], []) => {
            let parts = u64::from(f64::from_le_bytes(*rest) > 0.0);
            format!("{}", f64::from_le_bytes(*whole)).parse::<u64>().expect("whole us") + parts
        }
        _ => std::str::from_utf8(state).expect("text").parse().expect("an integer"),
    }
}

/// Whichever quotas move it, alone or with others, and however many of its writes leave it as it is.
#[tokio::test]
async fn a_time_to_live_is_that_of_the_state() {
    let server = servers::Redis::start().expect("a Redis");
    let redis = Redis::builder(server.url()).grace(Duration::ZERO).build().expect("a URL of Redis");
    let mut random = fastrand::Rng::with_seed(1);
    let quotas =
        ["5/s burst 1000", "1000/s burst 5000", "300/s burst 2000", "7/m burst 100", "1000/s burst 3"];
    let mut connection = server.connect().expect("a connection");
    for _ in 0..3_000 {
        let check = |random: &mut fastrand::Rng, names: &[&str]| {
            check(quotas[random.usize(..quotas.len())], names[random.usize(..names.len())], random.u64(1..4))
        };
        let request = if random.u8(..4) == 0 {
            Request::new([check(&mut random, &["a", "b"]), check(&mut random, &["c", "d"])])
        } else {
            Request::one(check(&mut random, &["a", "b", "c", "d"]))
        };
        let _ = answer(&redis, &request.expect("checks")).await.expect("an answer");
        for name in names(&server) {
            let until = connection.command(&[b"PEXPIRETIME", &name[..]]).expect("an instant").int();
            let state = connection.command(&[b"GET", &name[..]]).expect("a state");
            assert_ne!(until, Some(-1), "it has no time to live");
            // One that has gone meanwhile was full.
            let (Some(until @ 0..), Value::Bytes(state)) = (until, state) else { continue };
            let end =
                if state.len() == 24 { full_at(&state) } else { full_at(&state).next_multiple_of(1_000_000) };
            // As late as a script may look at the clock that began before.
            let until = (until.unsigned_abs() + 200) * 1_000;
            assert!(until >= end, "{} us too early", end - until);
        }
    }
    let stats = server.command(&["INFO", "commandstats"]).expect("an answer");
    let moves = stats.text().expect("text").lines().find(|line| line.starts_with("cmdstat_incrby:"));
    assert!(moves.is_some_and(|moves| moves.contains("failed_calls=0")), "{moves:?}");
}

/// What Lua reads as an integer and Redis does not.
#[tokio::test]
async fn a_state_that_cannot_be_moved_is_written() {
    let (server, redis) = server_and_store();
    let request = Request::one(check("1000/s burst 5000", "padded", 1)).expect("a check");
    let taken = async || {
        let decision = answer(&redis, &request).await.expect("an answer").summary().expect("one");
        assert!(decision.allowed);
        5_000 - decision.remaining
    };
    let _ = taken().await;
    let name = &names(&server)[0];
    let mut connection = server.connect().expect("a connection");
    let mut state = || match connection.command(&[b"GET", &name[..]]).expect("an answer") {
        Value::Bytes(state) => state,
        other => panic!("{other:?} is no state"),
    };
    for _ in 0..20 {
        let before = state();
        let padded = [b"0", &before[..]].concat();
        server.command(&[b"SET", &name[..], &padded[..], b"KEEPTTL"]).expect("a state");
        let _ = taken().await;
        let after = state();
        assert!(full_at(&after) >= full_at(&before) + 1_000 && !after.starts_with(b"0"), "{after:?}");
    }
    assert_eq!(redis.corrupt_states(), 0);
    bend(&server, &["ACL", "SETUSER", "default", "-incrby"]);
    for _ in 0..20 {
        let before = full_at(&state());
        let _ = taken().await;
        assert!(full_at(&state()) >= before + 1_000);
    }
}

/// How often each command was called, but for those that ask.
fn calls(server: &servers::Redis) -> Vec<(String, u64)> {
    let info = server.command(&["INFO", "commandstats"]).expect("an answer");
    let lines = info.text().expect("text").lines();
    let count = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split_once(',')?.0.parse().ok()?))
    };
    let outside = ["info", "config|resetstat", "evalsha", "eval", "time"];
    lines.filter_map(count).filter(|(name, _)| !outside.contains(&&**name)).collect()
}

#[tokio::test]
async fn one_read_and_one_write_per_key() {
    let (server, redis) = server_and_store();
    let _ = redis.decide(&[Request::one(check("9/s", "warm", 1)).expect("a check")]).await;
    for algorithm in Algorithm::ALL {
        let is_log = algorithm == Algorithm::SlidingLog;
        let name = algorithm.name();
        // A state that is made, and one that is there; of a hundred requests of which no two neighbours are equal.
        for again in [false, true] {
            let quota = lasting(algorithm, 1_000);
            let batch: Vec<Request> = (0..100)
                .map(|i| {
                    Request::one(Check { key: key(quota, name), quota, cost: 1 + i % 2 }).expect("a check")
                })
                .collect();
            bend(&server, &["CONFIG", "RESETSTAT"]);
            for answer in redis.decide(&batch).await {
                assert!(answer.expect("an answer").allowed());
            }
            let write = if is_log && again { "append" } else { "set" };
            let read = if is_log { "getrange" } else { "mget" };
            let mut expected = vec![(read.to_owned(), 1), (write.to_owned(), 1)];
            let mut counted = calls(&server);
            expected.sort_unstable();
            counted.sort_unstable();
            assert_eq!(counted, expected, "{algorithm}, again: {again}");
        }
    }
}

#[tokio::test]
async fn braces_in_a_key_steer_nothing() {
    let nodes = cluster::shared().nodes();
    let redis = cluster::connect(cluster::shared());
    let space = Keyspace::new("{hostile}", "}{", Algorithm::TokenBucket).expect("short names");
    let quota = lasting(Algorithm::TokenBucket, 10);
    let keys: Vec<_> =
        ["{a}x", "{a}y", "{}", "}{", "{", "a}", "{{a}}", ""].map(|name| space.key(name.as_bytes())).into();
    let placed = [b"{a}z", b"{b}z"].map(|name| space.key(name).placed(Placement::of(b"{there}")));
    let slots: Vec<i64> =
        keys.iter().chain(&placed).map(|key| slot(&nodes[0], tag(key).as_bytes())).collect();
    assert_ne!(slots[0], slots[1], "keys that a caller's braces would put together");
    assert_eq!(slots[keys.len()], slots[keys.len() + 1], "keys of one placement");
    for key in keys.iter().chain(&placed) {
        let request = Request::one(Check { key: key.clone(), quota, cost: 1 }).expect("a check");
        assert!(answer(&redis, &request).await.expect("an answer").allowed());
        let name = [format!("{{{}}}", tag(key)).as_bytes(), &key.to_bytes()].concat();
        let own = slot(&nodes[0], tag(key).as_bytes());
        assert_eq!(slot(&nodes[0], &name), own, "the slot of {}", String::from_utf8_lossy(&name));
        let there = names(&nodes[home(own)]);
        assert!(there.contains(&name), "{} is not where its tag says", String::from_utf8_lossy(&name));
    }
}
