//! Sliding logs: one of the highest limit, full; damaged ones; and one that is used for longer than it is first kept.

use crate::common::{ask, check, key, request};
use crate::stacks::{patient, patient_and_forgetful};
use fastrand::Rng;
use limiter_core::{Backend, Quota, Request};
use limiter_testkit::faults::{LongLog, at};
use limiter_testkit::servers;
use std::time::{Duration, Instant};

const LIMIT: u64 = Quota::MAX_LOG_LIMIT;

/// A permit each millisecond and two now and then: full before the first leaves.
const STEP: u64 = 1_000;

#[tokio::test]
async fn a_full_log_is_exact_and_bounded() {
    let server = servers::Redis::start().expect("a Redis");
    let redis = patient(&server);
    let quota: Quota = format!("{LIMIT}/100s sliding-log").parse().expect("a quota");
    let mut full = LongLog::new(redis, key(quota, "full"), quota);
    // 98,000 records of which some weigh more.
    let mut admitted = 0;
    for _ in 0..98 {
        admitted += full.ask((0..1_000).map(|i| 1 + u64::from(i % 500 == 0)), STEP).await;
    }
    assert_eq!(admitted, 98_196);
    // Full, and then denied with every distance to bisect.
    assert_eq!(full.ask([LIMIT - admitted], STEP).await, LIMIT - admitted);
    assert_eq!(full.ask([1, 2, 3, 10, 100, 5_000, 77_777, LIMIT, LIMIT + 1, 0], 1).await, 0);
    let name = server.command(&["KEYS", "*full"]).expect("keys");
    let name = name.items()[0].text().expect("a name").to_owned();
    let most = 2 * i64::try_from(LIMIT).expect("a limit") * 35;
    // Ages by steps until all has left; what is admitted on the way makes the log longer, and drops what has left.
    let (mut longest, mut compactions) = (0, 0);
    for round in 0..40 {
        full.wait(7_300_000 + round);
        let _ = full.ask([0, 1, 30_000, LIMIT, 7, 0], 3).await;
        let _ = full.ask((0..900).map(|i| 1 + i % 3), 1_001).await;
        let length = server.command(&["STRLEN", &name]).expect("a length").int().expect("a number");
        let memory = server.command(&["MEMORY", "USAGE", &name]).expect("a size").int().expect("a number");
        assert!(length <= most && memory <= most + 2_000_000, "{length} bytes in {memory}");
        compactions += u32::from(length < longest);
        longest = longest.max(length);
    }
    assert!(longest > 98_000 * 35 && compactions > 0, "{longest} bytes at most, {compactions} compactions");
}

/// Any bytes of it, anywhere: whatever it then says, it says it of itself alone, and admits no more than a fresh one.
#[tokio::test]
async fn a_damaged_log_spoils_no_other_key_and_heals() {
    let server = servers::Redis::start().expect("a Redis");
    let redis = patient(&server);
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    for round in 0..60 {
        let name = format!("damaged {round}");
        let mut now = 0;
        let mut log = |cost: u64, later: u64| {
            now += later;
            Request::one(check("40/10s sliding-log", &name, cost)).expect("a check").at(at(now))
        };
        for _ in 0..30 {
            let later = rng.u64(..300_000);
            assert!(
                redis.decide(&[log(1, later)]).await[0].as_ref().is_ok_and(limiter_core::Verdict::allowed)
            );
        }
        let keys = server.command(&["KEYS", &format!("*{name}")]).expect("keys");
        let key = keys.items()[0].text().expect("a name").as_bytes();
        let junk: Vec<u8> = (0..rng.usize(1..36)).map(|_| rng.u8(..)).collect();
        let offset = rng.usize(..30 * 35 - junk.len());
        server.command(&[b"SETRANGE", key, offset.to_string().as_bytes(), &junk]).expect("damage");
        let mut admitted = 0;
        for step in 0..60 {
            let (cost, later) = (1 + rng.u64(..8), rng.u64(..100_000));
            let other = request("10/day", &format!("{name} {step}"));
            let answers = redis.decide(&[other.clone(), log(cost, later), other]).await;
            let what = || format!("seed {seed}, round {round}, step {step}: {answers:?}");
            let allowed = |i: usize| answers[i].as_ref().unwrap_or_else(|_| panic!("{}", what())).allowed();
            assert!(allowed(0) && allowed(2), "{}", what());
            admitted += if allowed(1) { cost } else { 0 };
        }
        // All that is within one window: 60 steps of less than 100 ms.
        assert!(admitted <= 40, "seed {seed}, round {round}: {admitted} admitted");
        assert!(
            redis.decide(&[log(40, 20_000_000)]).await[0].as_ref().is_ok_and(limiter_core::Verdict::allowed)
        );
        let left = server.command(&[b"PTTL", key]).expect("a time to live").int();
        assert_ne!(left, Some(-1), "seed {seed}, round {round}");
    }
}

#[tokio::test]
async fn a_log_that_is_used_on_outlives_its_first_time_to_live() {
    let server = servers::Redis::start().expect("a Redis");
    let redis = patient_and_forgetful(&server);
    let (start, mut last, mut looked) = (Instant::now(), None::<Instant>, 0);
    while start.elapsed() < Duration::from_millis(1_600) {
        let asked = Instant::now();
        let decision = ask(&redis, "1000/300ms sliding-log", "on").await.expect("an answer").decisions()[0];
        // The one before is within the window, however busy the machine is.
        if last.is_some_and(|last| last.elapsed() < Duration::from_millis(250)) {
            assert!(decision.remaining <= 998, "lost after {:?}", start.elapsed());
            looked += 1;
        }
        last = Some(asked);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(looked > 20, "{looked} looks");
}
