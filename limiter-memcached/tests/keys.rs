//! What the servers hold: exactly our keys, as they are documented, each with a time to live.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::script::{Say, Script};
use common::{answer, ask, check, key, patient, quota, server, taken, text, with_args};
use limiter_core::{Algorithm, Backend, Check, Keyspace, Quota, Request, Timestamp};
use limiter_memcached::Memcached;
use limiter_testkit::servers;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Name and end (seconds since the epoch; -1: none) of every item, by the server's own list.
fn items(server: &servers::Memcached) -> Vec<(String, i64)> {
    let list = loop {
        // It takes the connection for itself, and no other command behind it.
        let mut stream = TcpStream::connect(server.addr()).expect("a connection");
        stream.write_all(b"lru_crawler metadump all\r\n").expect("room in the socket");
        let (mut list, mut piece) = (Vec::new(), [0; 65_536]);
        while !list.ends_with(b"END\r\n") && !list.starts_with(b"BUSY") {
            let length = stream.read(&mut piece).expect("a list");
            assert!(length > 0, "the list is cut");
            list.extend_from_slice(&piece[..length]);
        }
        if !list.starts_with(b"BUSY") {
            break String::from_utf8(list).expect("text");
        }
    };
    let item = |line: &str| {
        let name = line.strip_prefix("key=")?.split(' ').next()?.to_owned();
        let end = line.split(' ').find_map(|word| word.strip_prefix("exp="))?.parse().ok()?;
        Some((name, end))
    };
    list.lines().filter_map(item).collect()
}

/// The list shows names as URLs do.
fn shown(name: &str) -> String {
    let shown = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' | '~' => c.to_string(),
        _ => format!("%{:02X}", u32::from(c)),
    };
    name.chars().map(shown).collect()
}

/// Every byte, ends of lines, whole commands, and what is too long to be kept as it is.
fn hostile() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = (0..=255).map(|byte| vec![b'a', byte, b'b']).collect();
    let commands = [
        "",
        " ",
        "a\r\nset injected 0 0 1\r\nx\r\n",
        "a\r\nflush_all\r\n",
        "a\nms injected 1\r\nx",
        "a v c\r\nmd other q",
        "%0d%0a",
        "\u{2028}\u{85}",
    ];
    keys.extend(commands.map(|command| command.as_bytes().to_vec()));
    keys.extend([62, 63, 64, 200, 250, 251, 1_000, 65_536].map(|length| vec![b'\r'; length]));
    keys
}

#[tokio::test]
async fn exactly_our_keys_are_there() {
    let server = server();
    let memcached = patient(&[server.addr()]);
    let quota = quota("3/day");
    // The longest names that a keyspace can have, too.
    let long = "\u{1}\n ".repeat(21);
    let spaces =
        ["rule", &long].map(|rule| Keyspace::new(rule, rule, quota.algorithm()).expect("short names"));
    let mut keys = BTreeSet::new();
    for space in spaces {
        for bytes in hostile() {
            let key = space.key(&bytes);
            keys.insert(key.to_bytes());
            let asked = Request::one(Check { key, quota, cost: 1 }).expect("one check");
            let decision = answer(&memcached, &asked).await.expect("an answer").decisions()[0];
            assert_eq!(decision.remaining, 2, "{bytes:?} is a key of its own");
        }
    }
    let items = items(&server);
    let names: BTreeSet<&String> = items.iter().map(|(name, _)| name).collect();
    assert_eq!((items.len(), names.len()), (keys.len(), keys.len()), "one item per key");
    for (name, end) in &items {
        let is_ours = name.starts_with("rl1%3A") || (name.starts_with("rl1%23") && name.len() == 6 + 64);
        assert!(is_ours && *end > 0, "{name} ends at {end}");
    }
    assert_eq!(server.stat("curr_items").expect("an answer"), Some(keys.len().to_string()));
    assert_eq!(server.stat("cmd_flush").expect("an answer").as_deref(), Some("0"));
    let all = spaces.iter().flat_map(|space| hostile().into_iter().map(|bytes| space.key(&bytes)));
    memcached.reset(&all.collect::<Vec<_>>()).await.expect("a reset");
    assert_eq!(self::items(&server), []);
}

#[tokio::test]
async fn names_are_as_they_are_documented() {
    let server = server();
    let memcached = patient(&[server.addr()]);
    for name in ["42", "a b%\r\n\u{e9}"] {
        let _ = ask(&memcached, "3/day", name).await.expect("an answer");
        assert!(items(&server).iter().any(|(item, _)| *item == shown(&text("3/day", name))), "{name:?}");
    }
}

/// Shorter than thirty days, as long, longer, and as long as a quota can last.
#[tokio::test]
async fn times_to_live_of_any_length() {
    let server = server();
    let memcached = patient(&[server.addr()]);
    let now = || i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs());
    let day = 86_400;
    for (text, seconds) in [
        ("1/s", Some(1)),
        ("1/29days", Some(29 * day)),
        ("1/30days", Some(30 * day)),
        ("1/31days", Some(31 * day)),
        ("1/300days", Some(300 * day)),
        // Beyond the last second that Memcached can tell, in 2038, it has no end.
        ("1/12000days", None),
    ] {
        let before = now().expect("seconds");
        assert!(ask(&memcached, text, text).await.expect("an answer").allowed());
        let name = shown(&common::text(text, text));
        let (_, end) = items(&server).into_iter().find(|(item, _)| *item == name).expect("its item");
        let left = end - before;
        let is_right = seconds.map_or(end == -1, |seconds| (seconds + 1..=seconds + 5).contains(&left));
        assert!(is_right, "{text}: {left} s");
        assert!(!ask(&memcached, text, text).await.expect("an answer").allowed(), "{text} was forgotten");
    }
}

/// What is told as an instant is so by the clock of the server, which here is an hour ahead.
#[tokio::test]
async fn an_instant_is_told_by_the_servers_clock() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let (sent, sets) = std::sync::mpsc::channel();
    let ahead = Script::of(&format!("STAT time {}", now + 3_600), move |command, _| {
        let word = |word: &str| word.strip_prefix('T')?.parse::<u64>().ok();
        if let Some(time) = String::from_utf8_lossy(command).split_whitespace().find_map(word) {
            sent.send(time).expect("the test listens");
        }
        Say::Answer
    });
    let memcached = patient(&[ahead.address]);
    for (text, least) in [("1/31days", now + 3_600 + 31 * 86_400), ("1/day", 86_400)] {
        let _ = ask(&memcached, text, "a").await.expect("an answer");
        let told = sets.recv().expect("a write");
        assert!((least + 1..least + 10).contains(&told), "{text}: {told} instead of {least}");
    }
}

/// On both sides of what fits: the largest log that is accepted is written whole, and a larger one is never sent.
#[tokio::test]
async fn items_that_do_not_fit_are_refused_and_never_sent() {
    let server = with_args(&["-I", "16k", "-o", "slab_chunk_max=16384"]);
    let memcached = patient(&[server.addr()]);
    // What the server takes is known once it is connected.
    let log = |limit: u64| {
        let quota = Quota::new(limit, Duration::from_secs(86_400)).algorithm(Algorithm::SlidingLog);
        quota.build().expect("a quota")
    };
    assert!(memcached.accepts(&log(100_000)).is_ok());
    let _ = ask(&memcached, "1/s", "a").await.expect("an answer");
    let most = (1..10_000).rfind(|limit| memcached.accepts(&log(*limit)).is_ok()).expect("a log that fits");
    let refused = memcached.accepts(&log(most + 1)).expect_err("a log that does not fit").to_string();
    assert!(refused.contains(&format!("{}/day", most + 1)) && refused.contains("above 15872"), "{refused}");
    let take = |quota: Quota, name: &'static str, i: u64| {
        // As far apart as the window allows, so that every number is long; and so near that none leaves.
        let apart = if name == "fits" { 86_400_000_000 / most } else { 1 };
        let at = Timestamp::from_micros(1_795_465_002_435_613 + i * apart).expect("an instant");
        Request::one(Check { key: key(quota, name), quota, cost: 1 }).expect("one check").at(at)
    };
    for (quota, name, count) in [(log(most), "fits", most), (log(100_000), "grows", 20_000)] {
        let mut refused = None;
        for i in 0..count {
            match answer(&memcached, &take(quota, name, i)).await {
                Ok(verdict) => assert!(verdict.allowed()),
                Err(error) => {
                    refused = Some((i, error));
                    break;
                }
            }
        }
        match (name, refused) {
            ("fits", None) => {}
            ("grows", Some((i, error))) => {
                assert!(error.to_string().contains("above 15872"), "{error}");
                // What was there before is still there.
                let kept = Request::one(Check { key: key(quota, name), quota, cost: 0 }).expect("one check");
                let at = Timestamp::from_micros(1_795_465_002_435_613).expect("an instant");
                let decision = answer(&memcached, &kept.at(at)).await.expect("an answer").decisions()[0];
                assert_eq!(decision.remaining, 100_000 - i);
            }
            (_, refused) => panic!("{name}: {refused:?}"),
        }
    }
    assert_eq!(server.stat("store_too_large").expect("an answer").as_deref(), Some("0"));
    assert_eq!(memcached.usage().lost_states, 0);
}

/// Each key is on one server, the same for every instance, in whichever order the servers are named.
#[tokio::test]
async fn many_servers_share_the_keys() {
    let all = [server(), server(), server()];
    let addresses: Vec<_> = all.iter().map(|server| server.addr()).collect();
    let turned: Vec<_> = addresses.iter().copied().rev().collect();
    let (one, two) = (patient(&addresses), patient(&turned));
    let names: Vec<String> = (0..300).map(|i| i.to_string()).collect();
    for (i, name) in names.iter().enumerate() {
        let instance = if i % 2 == 0 { &one } else { &two };
        let _ = ask(instance, "3/day", name).await.expect("an answer");
    }
    let counts: Vec<usize> = all.iter().map(|server| items(server).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 300);
    assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
    for name in &names {
        assert_eq!((taken(&one, "3/day", name).await, taken(&two, "3/day", name).await), (1, 1));
    }
    // What `shard` says is where a key is.
    let shards: BTreeSet<String> = names
        .iter()
        .map(|name| format!("{:?}", one.shard(&Request::one(check("3/day", name, 1)).expect("one check"))))
        .collect();
    assert_eq!(shards.len(), 3);
}

/// A server says how its clock is, once it is connected; the widest difference is told as a figure.
#[tokio::test]
async fn skew_is_measured() {
    let server = server();
    let memcached: Memcached = patient(&[server.addr()]);
    assert_eq!(memcached.usage().servers[0].skew, None);
    let _ = ask(&memcached, "3/day", "a").await.expect("an answer");
    let skew = memcached.usage().servers[0].skew.expect("what was measured");
    let ahead = Duration::from_micros(skew.ahead_micros.unsigned_abs());
    assert!(ahead <= skew.uncertain_by + Duration::from_millis(500), "{skew:?}");
    assert!(skew.uncertain_by >= Duration::from_secs(1), "{skew:?}");
    memcached.ready().await.expect("a server that can be used");

    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let behind = Script::of(&format!("STAT time {}", now - 3_600), |_, _| Say::Answer);
    let memcached: Memcached = patient(&[server.addr(), behind.address]);
    let figure = || {
        let mut told = None;
        memcached.report(&mut |figure| {
            if figure.metric().name() == "limiter_clock_skew_seconds" {
                told = Some(Duration::from_micros(figure.value()).as_secs());
            }
        });
        told
    };
    assert_eq!(figure(), None);
    for i in 0..20 {
        let _ = ask(&memcached, "3/day", &i.to_string()).await.expect("an answer");
    }
    assert!(figure().is_some_and(|behind| (3_590..=3_610).contains(&behind)), "{:?} s", figure());
}
