//! Every field of every decision is the reference's, over long random schedules in virtual time.

use crate::fixture::{Fixture, at, quota, request, shaped};
use crate::reference::Reference;
use fastrand::Rng;
use limiter_core::{Algorithm, Check, Decision, Origin, Quota, Verdict};
use std::time::Duration;

/// Limits, windows and bursts that divide evenly, and ones that do not.
const QUOTAS: [&str; 7] = ["3/s", "7/13s", "100/minute", "10/7ms", "5/1500ms", "1/ms", "1000003/day"];
const BURSTS: [u64; 4] = [1, 2, 5, 40];

fn any_quota(rng: &mut Rng, algorithm: Algorithm) -> Quota {
    let text = rng.choice(QUOTAS).unwrap_or(QUOTAS[0]);
    let is_bucket = matches!(algorithm, Algorithm::TokenBucket | Algorithm::LeakyBucket);
    if is_bucket && rng.bool() {
        return quota(&format!("{text} burst {}", rng.choice(BURSTS).unwrap_or(1)), algorithm);
    }
    // A log's limit is capped.
    let text =
        if algorithm == Algorithm::SlidingLog && text.starts_with("1000003") { "50/hour" } else { text };
    quota(text, algorithm)
}

/// Permits: mostly few, sometimes none, all, or more than can ever be had.
fn any_cost(rng: &mut Rng, quota: &Quota, last: Option<&Decision>) -> u64 {
    match rng.u8(..10) {
        0 => 0,
        1 => quota.capacity(),
        2 => quota.capacity() + 1 + rng.u64(..3),
        3 => u64::MAX,
        4 => last.map_or(1, |decision| decision.remaining),
        5 => last.map_or(1, |decision| decision.remaining + 1),
        6 => rng.u64(..=quota.capacity()),
        _ => 1 + rng.u64(..3),
    }
}

/// The next instant: the same, a promised one, just before it, later, or earlier.
fn any_instant(rng: &mut Rng, now: u64, quota: &Quota, last: Option<&Decision>) -> u64 {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(0);
    let retry = last.and_then(|decision| decision.retry_after).map_or(0, micros);
    let reset = last.map_or(0, |decision| micros(decision.reset_after));
    let window = micros(quota.window());
    match rng.u8(..16) {
        0..=4 => now,
        5..=6 => now + retry,
        7 => now + retry.saturating_sub(1),
        8 => now + reset,
        9 => now + reset.saturating_sub(1),
        10..=11 => now + rng.u64(..=window),
        12 => now + rng.u64(..=3 * window),
        13 => now + rng.u64(..1_000),
        14 => now.saturating_sub(rng.u64(..=window / 2)),
        _ => now.saturating_sub(rng.u64(..=5 * window)),
    }
}

/// One key per quota's window, so that what a log has forgotten never matters; limits change under live state.
pub(super) async fn every_decision_is_the_references(fixture: Fixture, algorithm: Algorithm) {
    for seed in 0..6 {
        let mut rng = Rng::with_seed(seed);
        let mut reference = Reference::new();
        let (mut now, mut last) = (0, None);
        let mut quota = any_quota(&mut rng, algorithm);
        for step in 0..300 {
            if rng.u8(..12) == 0 {
                quota = any_quota(&mut rng, algorithm);
            }
            now = any_instant(&mut rng, now, &quota, last.as_ref());
            let cost = any_cost(&mut rng, &quota, last.as_ref());
            let name = match algorithm {
                Algorithm::SlidingLog => format!("{seed} {:?}", quota.window()),
                _ => seed.to_string(),
            };
            let check = fixture.check(name, quota, cost);
            let verdict = fixture.ask(&request([check.clone()], now)).await;
            let expected = reference.decide(&[check], at(now));
            assert_eq!(
                by_the_store(&verdict),
                expected,
                "seed {seed}, step {step}: {cost} of {quota} at {now} us"
            );
            last = Some(expected[0]);
        }
    }
}

/// A request is decided alike whether it is asked for alone or as a batch of one, and each way sees what the other took.
pub(super) async fn alone_and_in_a_batch(fixture: Fixture, algorithm: Algorithm) {
    let mut rng = Rng::with_seed(7);
    let (mut reference, quota) = (Reference::new(), quota("5/s", algorithm));
    let mut now = 0;
    for step in 0..200 {
        now += rng.u64(..300_000);
        let check = fixture.check("a", quota, rng.u64(..4));
        let request = request([check.clone()], now);
        let alone = rng.bool();
        let verdict = if alone {
            shaped(&request, fixture.backend().decide_alone(&request).await)
        } else {
            fixture.verdicts(std::slice::from_ref(&request)).await.remove(0)
        };
        let way = if alone { "alone" } else { "in a batch" };
        assert_eq!(by_the_store(&verdict), reference.decide(&[check], at(now)), "step {step}, {way}");
    }
}

/// The decisions, where it does not matter that a denial was remembered.
pub(super) fn by_the_store(verdict: &Verdict) -> Vec<Decision> {
    let said = |decision: &Decision| {
        let mut decision = *decision;
        if decision.origin == Origin::RememberedDenial && !decision.allowed {
            decision.origin = Origin::Store;
        }
        decision
    };
    verdict.decisions().iter().map(said).collect()
}

/// A log fills up with entries of any cost, and a few of them, many or all leave at once.
pub(super) async fn a_log_of_many_entries(fixture: Fixture) {
    let quota = quota("200/10s", Algorithm::SlidingLog);
    for seed in 0..3 {
        let mut rng = Rng::with_seed(seed);
        let mut reference = Reference::new();
        let mut now = 0;
        for step in 0..400 {
            now += match rng.u8(..20) {
                0 => rng.u64(..12_000_000),
                1..=3 => rng.u64(..2_000_000),
                _ => rng.u64(..100_000),
            };
            let check = fixture.check(seed.to_string(), quota, 1 + rng.u64(..3));
            let verdict = fixture.ask(&request([check.clone()], now)).await;
            let expected = reference.decide(&[check], at(now));
            assert_eq!(by_the_store(&verdict), expected, "seed {seed}, step {step} at {now} us");
        }
    }
}

/// One to five checks over few keys of all algorithms.
pub(super) async fn requests_of_several_checks_too(fixture: Fixture) {
    for seed in 0..4 {
        let mut rng = Rng::with_seed(seed);
        let quotas: Vec<Quota> = Algorithm::ALL.iter().map(|a| any_quota(&mut rng, *a)).collect();
        let mut reference = Reference::new();
        let (mut now, mut last) = (0, None);
        for step in 0..200 {
            let mut checks: Vec<Check> = Vec::new();
            for _ in 0..1 + rng.u8(..5) {
                let quota = rng.choice(&quotas).unwrap_or(&quotas[0]);
                let cost = any_cost(&mut rng, quota, last.as_ref());
                let check = fixture.check(format!("{seed} {}", rng.u8(..2)), *quota, cost);
                if checks.iter().all(|earlier| earlier.key != check.key) {
                    checks.push(check);
                }
            }
            now = any_instant(&mut rng, now, &checks[0].quota, last.as_ref());
            let verdict = fixture.ask(&request(checks.clone(), now)).await;
            let expected = reference.decide(&checks, at(now));
            let what = || format!("seed {seed}, step {step}: {checks:?} at {now} us");
            if verdict.decisions().iter().any(|decision| decision.origin == Origin::RememberedDenial) {
                // Of what other requests have taken since, a memory does not know: it may be too kind, and still says no.
                let pairs = || verdict.decisions().iter().zip(&expected);
                assert!(pairs().any(|(said, _)| !said.allowed), "{}", what());
                assert!(pairs().all(|(said, true_one)| said.allowed || !true_one.allowed), "{}", what());
                assert_eq!(verdict.decisions().len(), expected.len(), "{}", what());
            } else {
                assert_eq!(verdict.decisions(), expected, "{}", what());
            }
            last = Some(expected[0]);
        }
    }
}
