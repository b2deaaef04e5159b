//! Requests over several slots: whoever is denied has taken nothing in the end.

use crate::cluster::{self, tag};
use crate::common::answer;
use crate::keys::all_have_a_time_to_live;
use fastrand::Rng;
use limiter_core::{Algorithm, Check, Keyspace, Quota, Request, StorageKey};
use limiter_redis::Redis;
use limiter_testkit::Reference;
use limiter_testkit::faults::{at, lasting};
use tokio::task::JoinSet;

fn key(algorithm: Algorithm, name: &str) -> StorageKey {
    Keyspace::new("give-back", "rule", algorithm).expect("short names").key(name.as_bytes())
}

/// One request after another in virtual time, of which many are denied by one check.
#[tokio::test]
async fn a_denied_request_over_slots_changes_nothing() {
    let redis = cluster::connect(cluster::shared());
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    let mut reference = Reference::new();
    let mut now = 0;
    let mut denied = 0;
    for step in 0..150 {
        now += if rng.bool() { rng.u64(..2_000_000) } else { 0 };
        let mut checks: Vec<Check> = Vec::new();
        for algorithm in Algorithm::ALL {
            if rng.bool() || checks.is_empty() {
                let quota: Quota = format!("7/13s {algorithm}").parse().expect("a quota");
                let name = format!("{seed:x} {}", rng.u8(..2));
                checks.push(Check { key: key(algorithm, &name), quota, cost: rng.u64(..4) });
            }
        }
        let request = Request::new(checks.clone()).expect("keys that differ").at(at(now));
        let verdict = answer(&redis, &request).await.expect("an answer");
        denied += u32::from(!verdict.allowed());
        let expected = reference.decide(&checks, at(now));
        assert_eq!(verdict.decisions(), expected, "seed {seed}, step {step}: {checks:?} at {now} us");
    }
    assert!(denied > 20, "{denied} were denied");
}

/// Two keys, of which the second is soon used up; in key order, so that the first is taken and has to be given back.
fn pair(algorithm: Algorithm, run: u64) -> [StorageKey; 2] {
    let name = |i: u32| format!("{run:x} {i}");
    let first = key(algorithm, &name(0));
    let second = (1..).map(|i| key(Algorithm::FixedWindow, &name(i))).find(|key| tag(key) > tag(&first));
    [first, second.expect("a key behind the first")]
}

const TASKS: u64 = 48;
const ROOM: u64 = 20;

/// All ask at once; the cost on the first key of those that were granted.
async fn race(redis: &Redis, keys: &[StorageKey; 2], quota: Quota, instant: impl Fn(u64) -> u64) -> Vec<u64> {
    let few: Quota = lasting(Algorithm::FixedWindow, ROOM);
    let mut tasks = JoinSet::new();
    for i in 0..TASKS {
        let cost = 1 + i % 5;
        let checks = [
            Check { key: keys[0].clone(), quota, cost },
            Check { key: keys[1].clone(), quota: few, cost: 1 },
        ];
        let request = Request::new(checks).expect("keys that differ").at(at(instant(i)));
        let redis = redis.clone();
        tasks.spawn(
            async move { answer(&redis, &request).await.expect("an answer").allowed().then_some(cost) },
        );
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// What a key is worth now: every field of its decisions is that of a key that was charged these costs and no others.
async fn is_charged(redis: &Redis, keys: &[StorageKey; 2], quota: Quota, costs: &[u64], now: u64) {
    let mut reference = Reference::new();
    let check = |cost| [Check { key: keys[0].clone(), quota, cost }];
    for cost in costs {
        let _ = reference.decide(&check(*cost), at(now));
    }
    for (later, cost) in [(0, 0), (0, quota.capacity()), (1, 3), (1, 0)] {
        let request = Request::new(check(cost)).expect("a check").at(at(now + later));
        let verdict = answer(redis, &request).await.expect("an answer");
        assert_eq!(
            verdict.decisions(),
            reference.decide(&check(cost), at(now + later)),
            "{quota}: {cost} at {later} after {costs:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_race_took_and_lost_is_given_back() {
    let redis = cluster::connect(cluster::shared());
    for algorithm in Algorithm::ALL {
        for _ in 0..4 {
            let keys = pair(algorithm, fastrand::u64(..));
            let quota = lasting(algorithm, 1_000);
            let costs = race(&redis, &keys, quota, |_| 0).await;
            assert!(costs.len() as u64 <= ROOM, "{} were granted of {ROOM}", costs.len());
            is_charged(&redis, &keys, quota, &costs, 0).await;
        }
    }
    cluster::shared().nodes().iter().for_each(all_have_a_time_to_live);
}

/// Each at an instant of its own, so that a log loses records at its end and in its middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_race_took_at_many_instants_is_given_back() {
    let redis = cluster::connect(cluster::shared());
    for algorithm in Algorithm::ALL {
        for _ in 0..4 {
            let keys = pair(algorithm, fastrand::u64(..));
            let quota = lasting(algorithm, 1_000);
            let costs = race(&redis, &keys, quota, |i| i * 7 % TASKS).await;
            let peek = Check { key: keys[0].clone(), quota, cost: 0 };
            let request = Request::one(peek).expect("a check").at(at(1_000));
            let left = answer(&redis, &request).await.expect("an answer").decisions()[0].remaining;
            assert_eq!(left, 1_000 - costs.iter().sum::<u64>(), "{algorithm} after {costs:?}");
        }
    }
}
