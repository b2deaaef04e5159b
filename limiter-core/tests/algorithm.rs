//! The algorithms against an independent model in exact rationals, and against what they promise.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

#[path = "common/key.rs"]
mod key;
mod model;
#[path = "common/quotas.rs"]
mod quotas;
#[path = "common/schedules.rs"]
mod schedules;

use key::Key;
use limiter_core::{Algorithm, Decision, Quota, Timestamp};
use model::{Answer, Model};
use proptest::prelude::*;
use quotas::{any_algorithm, any_quota};
use schedules::{Cost, Last, START, When, any_cost, any_forward, any_when};

fn micros(duration: std::time::Duration) -> u64 {
    duration.as_micros().try_into().unwrap()
}

fn answer(decision: &Decision) -> Answer {
    Answer {
        allowed: decision.allowed,
        remaining: decision.remaining,
        retry_after: decision.retry_after.map(micros),
        reset_after: micros(decision.reset_after),
        delay: micros(decision.delay),
    }
}

fn last(decision: &Decision) -> Last {
    let Answer { remaining, retry_after, reset_after, .. } = answer(decision);
    Last { remaining, retry_after: retry_after.unwrap_or(0), reset_after }
}

fn modelled(quota: &Quota) -> model::Quota {
    let algorithm = match quota.algorithm() {
        Algorithm::TokenBucket => model::Algorithm::TokenBucket,
        Algorithm::LeakyBucket => model::Algorithm::LeakyBucket,
        Algorithm::FixedWindow => model::Algorithm::FixedWindow,
        Algorithm::SlidingLog => model::Algorithm::SlidingLog,
        Algorithm::SlidingCounter => model::Algorithm::SlidingCounter,
    };
    model::Quota { algorithm, limit: quota.limit(), window: micros(quota.window()), burst: quota.capacity() }
}

/// A tick: the grain in which an algorithm counts time.
fn one_tick_before(quota: &Quota, instant: u64) -> u64 {
    match quota.algorithm() {
        Algorithm::SlidingCounter => (instant - 1) / 1_000 * 1_000,
        _ => instant - 1,
    }
}

/// Requests of one key, with the quota that each comes under.
fn any_schedule(
    when: impl Strategy<Value = When>,
    quotas: std::ops::Range<usize>,
) -> impl Strategy<Value = (Vec<Quota>, Vec<(usize, When, Cost)>)> {
    let quotas = any_algorithm().prop_flat_map(move |a| prop::collection::vec(any_quota(a), quotas.clone()));
    let requests = prop::collection::vec((any::<prop::sample::Index>(), when, any_cost()), 1..60);
    (quotas, requests, 0_u64..12).prop_map(|(quotas, requests, spell)| {
        // A quota lives for a spell of requests, not for one.
        let of = |i: usize, index: prop::sample::Index| match spell {
            0 => index.index(quotas.len()),
            spell => i / usize::try_from(spell).unwrap() % quotas.len(),
        };
        let requests = requests.into_iter().enumerate().map(|(i, (index, w, c))| (of(i, index), w, c));
        let requests = requests.collect();
        (quotas, requests)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_field_is_the_models((quotas, requests) in any_schedule(any_when(), 1..4)) {
        let (mut key, mut model) = (Key::default(), Model::default());
        let (mut now, mut seen) = (START, Last::default());
        for (index, when, cost) in requests {
            let quota = &quotas[index];
            now = when.after(now, quota, seen);
            let cost = cost.of(quota, seen);
            let decision = key.step(quota, cost, now);
            let expected = model.decide(&modelled(quota), cost, now);
            prop_assert_eq!(answer(&decision), expected, "{:?} at {} for {}", quota, now, cost);
            prop_assert_eq!((decision.limit, decision.capacity), (quota.limit(), quota.capacity()));
            seen = last(&decision);
        }
    }

    /// They are about one quota, and about the time that a key has seen, which never runs backwards.
    #[test]
    fn every_history_keeps_the_invariants((quotas, requests) in any_schedule(any_forward(), 1..2)) {
        let (quota, mut key) = (&quotas[0], Key::default());
        let (mut now, mut seen) = (START, Last::default());
        let mut history = Vec::new();
        for (_, when, cost) in requests {
            now = when.after(now, quota, seen);
            let cost = cost.of(quota, seen);
            let decision = key.step(quota, cost, now);
            history.push(model::invariants::Event { at: now, cost, answer: answer(&decision) });
            seen = last(&decision);
        }
        model::invariants::check(&modelled(quota), &history);
    }

    #[test]
    fn every_hint_is_exact_both_ways((quotas, requests) in any_schedule(any_when(), 1..4)) {
        let mut key = Key::default();
        let (mut now, mut seen) = (START, Last::default());
        for (index, when, cost) in requests {
            let quota = &quotas[index];
            now = when.after(now, quota, seen);
            let cost = cost.of(quota, seen);
            let decision = key.step(quota, cost, now);
            seen = last(&decision);
            let then = |cost: u64, instant: u64| key.clone().step(quota, cost, instant);

            let furthest = seen.retry_after.max(seen.reset_after);
            if now + furthest > Timestamp::MAX.as_micros() {
                continue;
            }
            if !decision.allowed && decision.retry_after.is_some() {
                let retry_at = now + seen.retry_after;
                prop_assert!(then(cost, retry_at).allowed, "{quota:?}: {cost} at the promised {retry_at}");
                let before = one_tick_before(quota, retry_at).max(now);
                prop_assert!(!then(cost, before).allowed, "{quota:?}: {cost} a tick before, at {before}");
            }
            if !decision.allowed && decision.retry_after.is_none() {
                prop_assert!(cost > quota.capacity());
            }
            prop_assert!(then(seen.remaining, now).allowed);
            prop_assert!(!then(seen.remaining + 1, now).allowed);

            let reset_at = now + seen.reset_after;
            let fresh = |cost: u64, instant: u64| Key::default().step(quota, cost, instant);
            for cost in [0, 1, quota.capacity(), quota.capacity().saturating_add(1)] {
                prop_assert_eq!(then(cost, reset_at), fresh(cost, reset_at));
            }
            if seen.reset_after > 0 {
                prop_assert_ne!(then(0, reset_at - 1), fresh(0, reset_at - 1));
            }
        }
    }

    #[test]
    fn what_is_not_admitted_changes_nothing((quotas, requests) in any_schedule(any_when(), 1..4)) {
        let mut key = Key::default();
        let (mut now, mut seen) = (START, Last::default());
        for (index, when, cost) in requests {
            let quota = &quotas[index];
            now = when.after(now, quota, seen);
            let cost = cost.of(quota, seen);
            let before = key.clone();
            let decision = key.step(quota, cost, now);
            if !decision.allowed || cost == 0 {
                prop_assert_eq!(&key, &before);
            }
            prop_assert!(cost > 0 || decision.allowed, "a peek is always allowed");
            seen = last(&decision);
        }
    }
}

/// The i-th permit after a burst of two comes at exactly i * W / L, rounded up to the microsecond: no drift.
#[test]
fn a_bucket_does_not_drift() {
    for text in ["3/s burst 2", "7/23h59m59s burst 2", "1000000000/day burst 2", "1000003/day burst 2"] {
        let quota: Quota = text.parse().unwrap();
        let mut key = Key::default();
        assert!(key.step(&quota, 2, START).allowed);
        for i in 1..=100_000_u128 {
            let due = (i * quota.window().as_micros()).div_ceil(quota.limit().into());
            let due = START + u64::try_from(due).unwrap();
            assert!(!key.step(&quota, 1, due - 1).allowed, "{text}: permit {i} came early");
            assert!(key.step(&quota, 1, due).allowed, "{text}: permit {i} is late");
        }
    }
}

/// A bucket that is two fillings ahead counts, and one microsecond further it does not.
#[test]
fn a_bucket_further_ahead_than_two_fillings_counts_as_absent() {
    let (large, small): (Quota, Quota) = ("1/s burst 4".parse().unwrap(), "1/s burst 2".parse().unwrap());
    let mut key = Key::default();
    assert!(key.step(&large, 4, START).allowed);
    let denied = key.clone().step(&small, 1, START);
    assert_eq!((denied.allowed, denied.retry_after.map(micros)), (false, Some(3_000_000)));
    assert!(key.step(&small, 1, START - 1).allowed);
}

/// The worst case that the counter's documentation names: a burst at a window's end, then greedy.
#[test]
fn a_sliding_counter_admits_just_under_twice_its_limit() {
    let quota: Quota = "100/s sliding-counter".parse().unwrap();
    let mut key = Key::default();
    let end = START - START % 1_000_000 + 1_000_000;
    assert!(key.step(&quota, 100, end - 1).allowed);
    let greedy = (0..1_000_000).step_by(100).filter(|us| key.step(&quota, 1, end + us - 1).allowed).count();
    assert_eq!(100 + greedy, 199);
}

/// A log of many entries answers as the model does, also when costs leave one by one.
#[test]
fn a_long_log_is_exact() {
    let quota: Quota = "100000/s sliding-log".parse().unwrap();
    let mut key = Key::default();
    for i in 0..100_000 {
        assert!(key.step(&quota, 1, START + i * 10).allowed);
    }
    let now = START + 999_990;
    let denied = key.step(&quota, 1_000, now);
    assert_eq!((denied.allowed, denied.remaining), (false, 0));
    assert_eq!(micros(denied.retry_after.unwrap()), 10 + 999 * 10);
    let later = key.step(&quota, 1_000, now + 10 + 999 * 10);
    assert_eq!((later.allowed, later.remaining), (true, 0));
    assert_eq!(key.log.len(), 100_000 - 1_000 + 1);
}
