//! The in-process store: equal to the reference, atomic, all or nothing, bounded, and it never forgets.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "common/now_or_never.rs"]
mod now_or_never;
#[path = "common/quotas.rs"]
mod quotas;
#[path = "common/schedules.rs"]
mod schedules;

use limiter_core::{
    Algorithm, Backend, Check, Decision, Effect, Keyspace, Memory, Quota, Request, StorageKey, Timestamp,
    Verdict,
};
use limiter_testkit::Reference;
use now_or_never::now_or_never;
use proptest::prelude::*;
use quotas::{any_algorithm, any_quota};
use schedules::{Cost, Last, START, When, any_cost, any_when};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn key(algorithm: Algorithm, name: &str) -> StorageKey {
    Keyspace::new("test", "memory", algorithm).unwrap().key(name.as_bytes())
}

fn check(name: &str, quota: Quota, cost: u64) -> Check {
    Check { key: key(quota.algorithm(), name), quota, cost }
}

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros).unwrap()
}

fn ask(memory: &Memory, request: &Request) -> Verdict {
    memory.decide_now(request).unwrap().unwrap()
}

/// One check at an instant.
fn one(memory: &Memory, name: &str, quota: Quota, cost: u64, now: u64) -> Decision {
    let request = Request::new([check(name, quota, cost)]).unwrap().at(at(now));
    ask(memory, &request).decisions()[0]
}

/// Room for so many keys, in one part; what is reset is dropped whatever clock says so.
fn small(keys: usize) -> Memory {
    let builder = Memory::builder().max_keys(NonZeroUsize::new(keys).unwrap());
    builder.grace(Duration::ZERO).virtual_expiry(Duration::ZERO).build()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Requests of one to five checks, over few keys and all algorithms, at instants that step both ways.
    #[test]
    fn every_decision_is_the_references(
        quotas in prop::collection::vec(any_algorithm().prop_flat_map(any_quota), 2..6),
        requests in prop::collection::vec(
            (prop::collection::btree_set((0_usize..3, 0_usize..6), 1..6), any_when(), any_cost()),
            1..40,
        ),
    ) {
        let (memory, mut keys) = (Memory::new(), Reference::new());
        let (mut now, mut seen) = (START, Last::default());
        for (places, when, cost) in requests {
            let mut checks: Vec<Check> = Vec::new();
            for (name, quota) in places {
                let quota = quotas[quota % quotas.len()];
                let next = check(["a", "b", "c"][name], quota, Cost::of(cost, &quota, seen));
                if checks.iter().all(|earlier| earlier.key != next.key) {
                    checks.push(next);
                }
            }
            now = When::after(when, now, &checks[0].quota, seen);
            let verdict = ask(&memory, &Request::new(checks.clone()).unwrap().at(at(now)));
            let expected = keys.decide(&checks, at(now));
            prop_assert_eq!(verdict.decisions(), &expected[..]);
            let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap();
            let first = expected[0];
            seen = Last {
                remaining: first.remaining,
                retry_after: first.retry_after.map_or(0, micros),
                reset_after: micros(first.reset_after),
            };
        }
    }
}

#[test]
fn a_batch_is_answered_in_order_and_one_by_one() {
    let memory = Memory::new();
    let quota: Quota = "2/s".parse().unwrap();
    let ask = |name: &str, cost| Request::new([check(name, quota, cost)]).unwrap().at(at(START));
    let batch = [ask("a", 1), ask("b", 3), ask("a", 1), ask("a", 1), ask("b", 2), ask("a", 0)];
    let answers = now_or_never(memory.decide(&batch)).unwrap();
    let allowed: Vec<bool> = answers.into_iter().map(|answer| answer.unwrap().allowed()).collect();
    assert_eq!(allowed, [true, false, true, false, true, true]);
}

/// The share of the capacity counts, not the number; and the longest delay of all.
#[test]
fn the_check_with_the_least_share_left_speaks_for_all() {
    let memory = Memory::new();
    let ask = |checks: [(&str, &str, u64); 2]| {
        let checks = checks.map(|(name, quota, cost)| check(name, quota.parse().unwrap(), cost));
        let verdict = ask(&memory, &Request::new(checks).unwrap().at(at(START)));
        assert_eq!(verdict, Verdict::from_iter(verdict.decisions().iter().copied()));
        verdict.summary().unwrap()
    };
    let tight = ask([("a", "10/day", 5), ("b", "100/day", 94)]);
    assert_eq!((tight.limit, tight.remaining), (100, 6));
    let _: Decision = ask([("c", "1/s burst 9 leaky-bucket", 3), ("a", "10/day", 1)]);
    let queued = ask([("c", "1/s burst 9 leaky-bucket", 1), ("b", "100/day", 1)]);
    assert_eq!((queued.limit, queued.delay), (100, Duration::from_secs(3)));
}

#[test]
fn verdicts_are_equal_if_their_decisions_are() {
    let memory = Memory::new();
    let peek = |quota: &str| one(&memory, "a", quota.parse().unwrap(), 0, START);
    let [first, second] = ["1/s", "2/s"].map(peek);
    assert_eq!(Verdict::one(first), Verdict::from_iter([first]));
    assert_ne!(Verdict::one(first), Verdict::one(second));
    assert_ne!(Verdict::one(first), Verdict::from_iter([first, first]));
}

/// All algorithms, raced by threads: what is admitted is the limit, not one more and not one less.
#[test]
fn threads_on_one_key_admit_exactly_the_limit() {
    for algorithm in Algorithm::ALL {
        let memory = Memory::new();
        let quota = Quota::per_day(10_000).algorithm(algorithm).build().unwrap();
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let allowed = one(&memory, "hot", quota, 1, START).allowed;
                        admitted.fetch_add(u64::from(allowed), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 10_000, "{algorithm}");
    }
}

/// Requests over overlapping keys, in opposite orders: no deadlock, and each key loses what was granted, no more.
#[test]
fn threads_of_several_checks_are_all_or_nothing() {
    let memory = Memory::new();
    let shared = Quota::per_day(3_000).build().unwrap();
    let own = Quota::per_day(1_000).algorithm(Algorithm::FixedWindow).build().unwrap();
    let granted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (memory, granted) = (&memory, &granted);
            scope.spawn(move || {
                let names = ["x", "y", "z"];
                for i in 0..2_000 {
                    let (a, b) = (names[(thread + i) % 3], names[(thread + i + 1 + i % 2) % 3]);
                    let checks = [check("all", shared, 1), check(a, own, 1), check(b, own, 1)];
                    let checks: Vec<Check> =
                        if i % 2 == 0 { checks.into() } else { checks.into_iter().rev().collect() };
                    let request = Request::new(checks).unwrap().at(at(START));
                    granted.fetch_add(u64::from(ask(memory, &request).allowed()), Ordering::Relaxed);
                }
            });
        }
    });
    let left = |name, quota: Quota| quota.limit() - one(&memory, name, quota, 0, START).remaining;
    let granted = granted.into_inner();
    assert_eq!(left("all", shared), granted);
    assert_eq!(left("x", own) + left("y", own) + left("z", own), 2 * granted);
    assert!(granted >= 1_000, "only {granted} of the 1,500 that fit were granted");
}

#[test]
fn a_live_state_is_never_dropped_and_a_reset_one_is() {
    let memory = small(64);
    let (slow, quick): (Quota, Quota) = ("1/day".parse().unwrap(), "1/s".parse().unwrap());
    for i in 0..32 {
        assert!(one(&memory, &format!("slow {i}"), slow, 1, START).allowed);
        assert!(one(&memory, &format!("quick {i}"), quick, 1, START).allowed);
    }
    assert_eq!((memory.usage().keys, memory.usage().shared_states), (64, 0));
    // A second later the quick ones are reset, and make room.
    assert!(one(&memory, "newcomer", slow, 1, START + 1_000_000).allowed);
    assert_eq!((memory.usage().keys, memory.usage().shared_states), (33, 0));
    for i in 0..32 {
        assert!(!one(&memory, &format!("slow {i}"), slow, 1, START + 1_000_000).allowed);
    }
}

#[test]
fn at_capacity_newcomers_share_and_are_never_looser() {
    for algorithm in Algorithm::ALL {
        let memory = small(8);
        let quota = Quota::per_day(2).algorithm(algorithm).build().unwrap();
        for i in 0..8 {
            assert!(one(&memory, &format!("own {i}"), quota, 2, START).allowed);
        }
        let newcomers: Vec<String> = (0..1_000).map(|i| format!("newcomer {i}")).collect();
        let admitted: Vec<&String> =
            newcomers.iter().filter(|name| one(&memory, name, quota, 2, START).allowed).collect();
        assert_eq!(memory.usage().keys, 8, "{algorithm}");
        // One shared state for each newcomer that was admitted; the others found it used up.
        assert_eq!(admitted.len(), memory.usage().shared_states, "{algorithm}");
        assert!((1..=16).contains(&admitted.len()), "{algorithm}: {} shared states", admitted.len());
        assert!(newcomers.iter().all(|name| !one(&memory, name, quota, 1, START).allowed), "{algorithm}");
        assert!((0..8).all(|i| !one(&memory, &format!("own {i}"), quota, 1, START).allowed), "{algorithm}");
    }
}

/// A shared state is used by all who share it, at any cost: there are never more than sixteen.
#[test]
fn newcomers_take_from_the_same_shared_states() {
    let memory = small(1);
    let quota: Quota = "10/day sliding-log".parse().unwrap();
    assert!(one(&memory, "own", quota, 1, START).allowed);
    let admitted = (0..1_000).filter(|i| one(&memory, &format!("{i}"), quota, 1, START).allowed).count();
    let shared = memory.usage().shared_states;
    assert_eq!((admitted, shared), (shared * 10, 16));
    assert_eq!(memory.usage().log_entries, 0, "at one instant, one entry each");
}

/// The first checks take the last room, and the others then share: decided as their sum all the same.
#[test]
fn a_request_at_the_edge_of_the_capacity_is_all_or_nothing() {
    let quota: Quota = "1/hour".parse().unwrap();
    for round in 0..400 {
        let memory = small(1 + round % 4);
        let names: Vec<String> = (0..5).map(|i| format!("{round} {i}")).collect();
        let checks = names.iter().map(|name| check(name, quota, 1));
        let verdict = ask(&memory, &Request::new(checks).unwrap().at(at(START)));
        let taken = names.iter().filter(|name| one(&memory, name, quota, 0, START).remaining == 0).count();
        let expected = if verdict.allowed() { 5 } else { 0 };
        assert_eq!(taken, expected, "round {round}: {verdict:?}");
    }
}

/// What the first check's newcomer sweeps away, the last one still needs.
#[test]
fn a_sweep_within_a_request_takes_no_state_from_it() {
    let memory = small(2);
    let (brief, day, days): (Quota, Quota, Quota) =
        ("1/s".parse().unwrap(), "1/day".parse().unwrap(), "5/day".parse().unwrap());
    assert!(one(&memory, "rested", brief, 1, START).allowed);
    assert!(one(&memory, "other", day, 1, START).allowed);
    for i in 0..200 {
        let _: Decision = one(&memory, &format!("flood {i}"), brief, 1, START + 900_000);
    }
    let checks = [check("newcomer", days, 1), check("rested", brief, 1)];
    let verdict = ask(&memory, &Request::new(checks).unwrap().at(at(START + 1_000_000)));
    let left = one(&memory, "newcomer", days, 0, START + 1_000_000).remaining;
    assert_eq!(left, if verdict.allowed() { 4 } else { 5 }, "{verdict:?}");
}

#[test]
fn keys_are_spread_evenly_over_the_parts() {
    let memory = Memory::builder().max_keys(NonZeroUsize::new(16_384).unwrap()).build();
    let quota = Quota::per_day(1).build().unwrap();
    for i in 0..8_192 {
        assert!(one(&memory, &format!("{i}"), quota, 1, START).allowed);
    }
    let usage = memory.usage();
    assert_eq!((usage.keys, usage.shared_states), (8_192, 0), "no part is full at half the capacity");
}

#[test]
fn an_overflow_state_belongs_to_one_rule_algorithm_and_quota() {
    let memory = small(1);
    let quota: Quota = "1/day".parse().unwrap();
    assert!(one(&memory, "own", quota, 1, START).allowed);
    let rule = |name| Keyspace::new("test", name, Algorithm::TokenBucket).unwrap();
    let ask = |rule: Keyspace, quota: Quota| {
        let check = Check { key: rule.key(b"newcomer"), quota, cost: 1 };
        ask(&memory, &Request::new([check]).unwrap().at(at(START))).allowed()
    };
    assert!(ask(rule("first"), quota));
    assert!(!ask(rule("first"), quota));
    assert!(ask(rule("second"), quota));
    assert!(ask(rule("first"), "2/day".parse().unwrap()));
}

#[test]
fn a_key_that_gets_its_own_slot_takes_the_shared_state_along() {
    let memory = small(1);
    let (brief, quota): (Quota, Quota) = ("1/s".parse().unwrap(), "5/day".parse().unwrap());
    assert!(one(&memory, "brief", brief, 1, START).allowed);
    assert_eq!(one(&memory, "newcomer", quota, 2, START).remaining, 3);
    assert_eq!((memory.usage().keys, memory.usage().shared_states), (1, 1));
    let later = START + 1_000_000;
    assert_eq!(one(&memory, "newcomer", quota, 1, later).remaining, 2);
    // Its own slot now; the shared state stands as it was.
    assert_eq!((memory.usage().keys, memory.usage().shared_states), (1, 1));
    assert_eq!(one(&memory, "newcomer", quota, 2, later).remaining, 0);
}

#[test]
fn checks_of_one_request_that_share_a_state_add_up() {
    let memory = small(1);
    let quota: Quota = "4/day".parse().unwrap();
    assert!(one(&memory, "own", quota, 1, START).allowed);
    // With 16 shared states, some two of these 17 newcomers share one.
    let names: Vec<String> = (0..17).map(|i| format!("newcomer {i}")).collect();
    let checks = |cost| names.iter().map(move |name| check(name, quota, cost));
    let request = Request::new(checks(3)).unwrap().at(at(START));
    let denied = ask(&memory, &request);
    assert!(!denied.allowed(), "six of four were granted");
    assert_eq!(memory.usage().shared_states, 0, "a denied request has consumed");
    let sharing = denied.decisions().iter().position(|decision| !decision.allowed).unwrap();
    assert_eq!(denied.decisions()[sharing].retry_after, None, "they will never fit into one state");
    // Alone, it fits.
    assert!(one(&memory, &names[sharing], quota, 3, START).allowed);
}

#[test]
fn resetting_forgets_the_key_and_says_so_where_it_cannot() {
    let memory = small(1);
    let quota: Quota = "1/day".parse().unwrap();
    let reset = |name| now_or_never(memory.reset(&[key(Algorithm::TokenBucket, name)])).unwrap();
    assert!(one(&memory, "own", quota, 1, START).allowed);
    assert!(one(&memory, "newcomer", quota, 1, START).allowed);
    let error = reset("newcomer").unwrap_err();
    assert_eq!(error.effect(), Effect::NotApplied);
    assert!(error.to_string().contains("1 of 1 states may be part of an overflow state"), "{error}");
    assert!(!one(&memory, "newcomer", quota, 1, START).allowed);

    // Its own state is reset, and it does not go on from one that it could share.
    for i in 0..200 {
        let _: Decision = one(&memory, &format!("flood {i}"), quota, 1, START);
    }
    assert_eq!(memory.usage().shared_states, 16);
    assert!(reset("own").is_ok());
    assert!(reset("own").is_ok(), "safe to repeat");
    assert!(one(&memory, "own", quota, 1, START).allowed);

    // Of a caller without a state of its own nothing is forgotten, whatever other algorithms it was counted by.
    let keys = Algorithm::ALL.map(|algorithm| key(algorithm, "newcomer"));
    let error = now_or_never(memory.reset(&keys)).unwrap().unwrap_err();
    assert_eq!(error.effect(), Effect::NotApplied);

    let key = [key(Algorithm::TokenBucket, "own"), key(Algorithm::TokenBucket, "newcomer")];
    let error = now_or_never(memory.reset(&key)).unwrap().unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown, "one of the two was reset");
    assert!(!error.is_outage());
}

#[test]
fn a_reset_state_is_kept_for_the_grace_period() {
    let builder = Memory::builder().max_keys(NonZeroUsize::new(64).unwrap());
    let memory = builder.grace(Duration::from_secs(5)).virtual_expiry(Duration::ZERO).build();
    let quota: Quota = "1/s fixed-window".parse().unwrap();
    let end = START - START % 1_000_000 + 1_000_000;
    for i in 0..64 {
        assert!(one(&memory, &format!("{i}"), quota, 1, START).allowed);
    }
    assert!(one(&memory, "newcomer", quota, 1, end + 4_999_999).allowed);
    assert_eq!((memory.usage().keys, memory.usage().shared_states), (64, 1));
    assert!(!one(&memory, "0", quota, 1, START).allowed, "dropped within the grace period");
    assert!(one(&memory, "another", quota, 1, end + 5_001_000).allowed);
    assert_eq!(memory.usage().keys, 1);
}

#[test]
fn logs_are_bounded_together_and_become_stricter() {
    let memory = Memory::builder().max_keys(NonZeroUsize::new(8).unwrap()).log_entries(10).build();
    let quota: Quota = "100/s sliding-log".parse().unwrap();
    for i in 0..100 {
        assert!(one(&memory, "log", quota, 1, START + i * 1_000).allowed);
        assert!(memory.usage().log_entries <= 10);
    }
    // The exact log frees one permit a second after the first; the coarse one holds on to what it joined.
    let retry = |n| one(&memory, "log", quota, n, START + 99_000).retry_after.unwrap().as_micros();
    assert_eq!(retry(10), 1_000_000 - 99_000 + 9_000);
    assert_eq!(retry(11), 1_000_000);
    assert!(one(&memory, "log", quota, 100, START + 1_099_000).allowed);
}

#[test]
fn states_of_virtual_time_outlive_any_instant() {
    let memory = Memory::builder().max_keys(NonZeroUsize::new(100).unwrap()).build();
    let quota: Quota = "1/s".parse().unwrap();
    assert!(one(&memory, "a", quota, 1, START).allowed);
    for i in 0..99 {
        assert!(one(&memory, &format!("later {i}"), quota, 1, START + 3_600_000_000).allowed);
    }
    assert!(one(&memory, "newcomer", quota, 1, START + 3_600_000_000).allowed);
    assert!(!one(&memory, "a", quota, 1, START).allowed, "dropped, though time stepped back");
}
