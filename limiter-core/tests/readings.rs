//! What stores build on: decisions made of readings, states taken apart and put together, costs given back.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "common/quotas.rs"]
mod quotas;
#[path = "common/schedules.rs"]
mod schedules;

use limiter_core::algorithm::{
    Bucket, Counter, FixedWindow, LeakyBucket, Log, Reading, SlidingCounter, SlidingLog, Step, TokenBucket,
    Window,
};
use limiter_core::{Algorithm, Check, Decision, Keyspace, Quota, Timestamp};
use proptest::prelude::*;
use quotas::{any_algorithm, any_quota};
use schedules::{Cost, Last, START, When, any_cost, any_forward, any_when};

/// What differs between the algorithms for a store: how a reading is wrapped, and a state taken apart.
trait Parts: Step {
    fn wrap(reading: Self::Reading) -> Reading;
    fn rebuilt(state: &Self::State) -> Self::State;
}

impl Parts for TokenBucket {
    fn wrap(reading: Self::Reading) -> Reading {
        Reading::Bucket(reading)
    }
    fn rebuilt(state: &Bucket) -> Bucket {
        let (whole, rem, denominator) = state.parts();
        Bucket::new(whole, rem, denominator)
    }
}

impl Parts for LeakyBucket {
    fn wrap(reading: Self::Reading) -> Reading {
        Reading::Bucket(reading)
    }
    fn rebuilt(state: &Bucket) -> Bucket {
        TokenBucket::rebuilt(state)
    }
}

impl Parts for FixedWindow {
    fn wrap(reading: Self::Reading) -> Reading {
        Reading::Window(reading)
    }
    fn rebuilt(state: &Window) -> Window {
        let (start, count) = state.parts();
        Window::new(start, count)
    }
}

impl Parts for SlidingLog {
    fn wrap(reading: Self::Reading) -> Reading {
        Reading::Log(reading)
    }
    fn rebuilt(state: &Log) -> Log {
        Log::new(state.admissions())
    }
}

impl Parts for SlidingCounter {
    fn wrap(reading: Self::Reading) -> Reading {
        Reading::Counter(reading)
    }
    fn rebuilt(state: &Counter) -> Counter {
        let (start, current, previous) = state.parts();
        Counter::new(start, current, previous)
    }
}

/// Runs the body with the type of the quota's algorithm.
macro_rules! by_algorithm {
    ($quota:expr, $A:ident => $body:expr) => {
        match $quota.algorithm() {
            Algorithm::TokenBucket => {
                type $A = TokenBucket;
                $body
            }
            Algorithm::LeakyBucket => {
                type $A = LeakyBucket;
                $body
            }
            Algorithm::FixedWindow => {
                type $A = FixedWindow;
                $body
            }
            Algorithm::SlidingLog => {
                type $A = SlidingLog;
                $body
            }
            Algorithm::SlidingCounter => {
                type $A = SlidingCounter;
                $body
            }
        }
    };
}

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros).unwrap()
}

fn last(decision: &Decision) -> Last {
    let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap();
    Last {
        remaining: decision.remaining,
        retry_after: decision.retry_after.map_or(0, micros),
        reset_after: micros(decision.reset_after),
    }
}

/// A state after some requests, and the instant of the last one.
fn used<A: Step>(quota: &Quota, schedule: &[(When, Cost)]) -> (A::State, u64) {
    let (mut state, mut now, mut answer) = (A::State::default(), START, Last::default());
    for (when, cost) in schedule {
        now = when.after(now, quota, answer);
        answer = last(&A::step(&mut state, quota, cost.of(quota, answer), at(now)));
    }
    (state, now)
}

/// One reading decides a run of equal requests as the steps one after another do.
fn a_run_is_steps<A: Parts>(quota: &Quota, schedule: &[(When, Cost)], cost: u64, count: usize) {
    let (mut state, now) = used::<A>(quota, schedule);
    let steps: Vec<Decision> = {
        let mut state = state.clone();
        (0..count).map(|_| A::step(&mut state, quota, cost, at(now))).collect()
    };
    let mut reading = A::wrap(A::read(&state, quota, cost, at(now)));
    for (i, expected) in steps.iter().enumerate() {
        let decision = reading.decide(quota, cost, at(now)).unwrap();
        if !expected.allowed {
            // What a denial of a log needs is read of the state that the run left.
            let denied = A::wrap(A::read(&state, quota, cost, at(now))).decide(quota, cost, at(now)).unwrap();
            assert_eq!((denied, decision.allowed), (*expected, false), "{quota}: {i} of {count} at {cost}");
            continue;
        }
        assert_eq!(decision, *expected, "{quota}: {i} of {count} at {cost}");
        if cost > 0 {
            let taken = A::read(&state, quota, cost, at(now));
            A::take(&mut state, &taken, quota, cost);
            reading = reading.after(quota, cost);
        }
    }
}

/// A cost that is given back leaves a state that is never looser than had it not been taken, whatever came in between.
fn giving_back_refunds_no_more<A: Parts>(
    quota: &Quota,
    schedule: &[(When, Cost)],
    cost: u64,
    between: &[(When, Cost)],
    later: u64,
) {
    let (mut without, now) = used::<A>(quota, schedule);
    let mut with = without.clone();
    let reading = A::read(&with, quota, cost, at(now));
    if cost == 0 || !A::decide(&reading, quota, cost, at(now)).allowed {
        return;
    }
    A::take(&mut with, &reading, quota, cost);
    let (mut then, mut answer) = (now, Last::default());
    for (when, other) in between {
        then = when.after(then, quota, answer);
        let other = other.of(quota, answer);
        let decision = A::step(&mut with, quota, other, at(then));
        if decision.allowed {
            let _ = A::step(&mut without, quota, other, at(then));
        }
        answer = last(&decision);
    }
    A::give_back(&mut with, quota, cost, &reading, at(now), at(then));
    let left = |state: &A::State, now: u64| {
        A::decide(&A::read(state, quota, 0, at(now)), quota, 0, at(now)).remaining
    };
    for instant in [then, then + later, then + 2 * later] {
        let (given, spared) = (left(&with, instant), left(&without, instant));
        assert!(given <= spared, "{quota}: {given} remain after a gift, {spared} had nothing been taken");
    }
    if between.is_empty() {
        let (given, spared) = (left(&with, then), left(&without, then));
        // A bucket's gift is in whole us, rounded down, which many permits may refill in.
        let lost = 1 + quota.limit() / u64::try_from(quota.window().as_micros()).unwrap();
        assert!(given + lost >= spared, "{quota}: {given} of {spared} at once");
    }
}

fn any_use(when: impl Strategy<Value = When>, most: usize) -> impl Strategy<Value = Vec<(When, Cost)>> {
    prop::collection::vec((when, any_cost()), 0..most)
}

proptest! {
    #[test]
    fn a_run_is_decided_by_one_reading(
        quota in any_algorithm().prop_flat_map(any_quota),
        schedule in any_use(any_when(), 8),
        cost in any_cost(),
        count in 1_usize..12,
    ) {
        let cost = cost.of(&quota, Last::default());
        by_algorithm!(quota, A => a_run_is_steps::<A>(&quota, &schedule, cost, count));
    }

    #[test]
    fn a_state_survives_being_taken_apart(
        quota in any_algorithm().prop_flat_map(any_quota),
        schedule in any_use(any_when(), 12),
        cost in any_cost(),
    ) {
        let cost = cost.of(&quota, Last::default());
        by_algorithm!(quota, A => {
            let (state, now) = used::<A>(&quota, &schedule);
            let rebuilt = A::rebuilt(&state);
            prop_assert_eq!(
                A::read(&state, &quota, cost, at(now)),
                A::read(&rebuilt, &quota, cost, at(now))
            );
        });
    }

    #[test]
    fn what_is_given_back_is_no_more_than_was_taken(
        quota in any_algorithm().prop_flat_map(any_quota),
        schedule in any_use(any_forward(), 6),
        cost in any_cost(),
        between in any_use(any_forward(), 4),
        later in 0_u64..5_000_000,
    ) {
        let cost = cost.of(&quota, Last::default());
        by_algorithm!(quota, A => giving_back_refunds_no_more::<A>(&quota, &schedule, cost, &between, later));
    }
}

fn check(algorithm: Algorithm, key: &str, text: &str, cost: u64) -> Check {
    let keyspace = Keyspace::new("readings", "rule", algorithm).unwrap();
    let quota = format!("{text} {algorithm}").parse().unwrap();
    Check { key: keyspace.key(key.as_bytes()), quota, cost }
}

#[test]
fn a_denied_request_reports_its_other_checks_as_peeks() {
    let checks = [check(Algorithm::FixedWindow, "a", "5/s", 2), check(Algorithm::TokenBucket, "b", "1/s", 1)];
    let now = at(START - START % 1_000_000);
    let full = Reading::Window(FixedWindow::read(&Window::default(), &checks[0].quota, 2, now));
    let mut bucket = Bucket::default();
    let _ = TokenBucket::step(&mut bucket, &checks[1].quota, 1, now);
    let empty = Reading::Bucket(TokenBucket::read(&bucket, &checks[1].quota, 1, now));
    let verdict = Reading::verdict(&checks, &[full, empty], now).unwrap();
    let remaining: Vec<_> = verdict.decisions().iter().map(|d| (d.allowed, d.remaining)).collect();
    assert_eq!(remaining, [(true, 5), (false, 0)]);
}

#[test]
fn a_reading_of_another_algorithm_or_a_missing_one_is_no_answer() {
    let checks = [check(Algorithm::FixedWindow, "a", "5/s", 1), check(Algorithm::FixedWindow, "b", "5/s", 1)];
    let now = at(START);
    let bucket = Reading::Bucket(TokenBucket::read(&Bucket::default(), &checks[0].quota, 1, now));
    assert_eq!(Reading::verdict(&checks[..1], &[bucket], now), None);
    assert_eq!(Reading::verdict(&checks, &[bucket], now), None);
}

#[test]
fn a_bucket_of_impossible_parts_is_stricter() {
    assert_eq!(Bucket::new(7, 5, 5).reset_at(), 8);
    assert_eq!(Bucket::new(7, 1, 0).reset_at(), 8);
    assert_eq!(Bucket::new(7, 0, 0).reset_at(), 7);
}

#[test]
fn a_quota_that_changed_gets_nothing_back() {
    let [old, new] = ["7/13s", "11/30s"].map(|text| text.parse::<Quota>().unwrap());
    let now = at(START);
    let mut state = Bucket::default();
    let taken = TokenBucket::read(&state, &old, 1, now);
    TokenBucket::take(&mut state, &taken, &old, 1);
    let _ = TokenBucket::step(&mut state, &new, 1, now);
    let before = state;
    TokenBucket::give_back(&mut state, &old, 1, &taken, now, now);
    assert_eq!(state, before);
}

/// What was taken may be forgotten by then, as a state too far ahead.
#[test]
fn a_clock_that_stepped_back_since_gives_a_bucket_nothing() {
    let quota: Quota = "3/s".parse().unwrap();
    let mut state = Bucket::default();
    let taken = TokenBucket::read(&state, &quota, 1, at(START));
    TokenBucket::take(&mut state, &taken, &quota, 1);
    let earlier = at(START - 60_000_000);
    let _ = TokenBucket::step(&mut state, &quota, 2, earlier);
    let before = state;
    TokenBucket::give_back(&mut state, &quota, 1, &taken, at(START), earlier);
    assert_eq!(state, before);
}
