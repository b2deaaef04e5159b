//! Batches: an answer for each request, in its place, as if they had come one by one.

use super::equal::by_the_store;
use crate::fixture::{Fixture, at, quota, request};
use crate::reference::Reference;
use fastrand::Rng;
use limiter_core::{Algorithm, Decision, Quota, Request};

/// The answers that the requests get one after another.
fn expected(batch: &[Request]) -> Vec<Vec<Decision>> {
    let mut reference = Reference::new();
    batch.iter().map(|request| reference.decide(request.checks(), request.now())).collect()
}

async fn is_the_references(fixture: &Fixture, batch: &[Request]) {
    let verdicts = fixture.verdicts(batch).await;
    for (i, (verdict, expected)) in verdicts.iter().zip(expected(batch)).enumerate() {
        assert_eq!(verdict.decisions(), expected, "request {i} of {}", batch.len());
    }
}

pub(super) async fn one_key_many_times(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("20/s", algorithm);
    let costs = [1, 1, 1, 5, 0, 1, 30, 8, 1, 1, 9, 2, 1, 0, 1, 1, 1, 1, 1, 1];
    let batch: Vec<Request> = costs.map(|cost| request([fixture.check("a", quota, cost)], 0)).into();
    is_the_references(&fixture, &batch).await;
}

/// Later, much later and earlier: each is decided at its own instant, on what those before it in the batch left. Runs of
/// equal requests are among them, which may travel as one.
pub(super) async fn instants_of_their_own(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("4/100ms", algorithm);
    let instants =
        [0, 0, 0, 30, 30, 30, 10, 10, 100, 100, 100, 0, 120, 120, 120, 120, 120, 900, 900, 850, 1_000];
    let batch: Vec<Request> =
        instants.map(|millis| request([fixture.check("a", quota, 1)], millis * 1_000)).into();
    is_the_references(&fixture, &batch).await;
}

pub(super) async fn mixed_outcomes(fixture: Fixture) {
    let one = |key: &str, text: &str, cost| {
        request([fixture.check(key, quota(text, Algorithm::TokenBucket), cost)], 0)
    };
    let batch = [
        one("a", "1/s", 1),
        one("b", "5/s", 6),
        one("a", "1/s", 1),
        one("c", "2/s", 2),
        one("b", "5/s", 0),
        one("c", "2/s", 1),
        one("d", "9/s", 9),
    ];
    let allowed: Vec<bool> = fixture.verdicts(&batch).await.iter().map(|verdict| verdict.allowed()).collect();
    assert_eq!(allowed, [true, false, false, true, true, false, true]);
}

/// Of all algorithms, one to three checks each, over keys that meet again and again.
pub(super) async fn a_thousand_requests(fixture: Fixture) {
    let mut rng = Rng::with_seed(1);
    let mut any_request = |_| {
        let mut checks = Vec::new();
        for algorithm in Algorithm::ALL {
            if rng.u8(..3) == 0 || (checks.is_empty() && algorithm == Algorithm::SlidingCounter) {
                let key = rng.u8(..40).to_string();
                checks.push(fixture.check(key, quota("20/minute", algorithm), rng.u64(..4)));
            }
        }
        request(checks, 0)
    };
    let batch: Vec<Request> = (0..1_000).map(&mut any_request).collect();
    is_the_references(&fixture, &batch).await;
}

/// A store may decide those that are alike together: of many keys, in quotas that differ in little, with states that come
/// to differ in any part, each gets its own.
pub(super) async fn many_keys(fixture: Fixture) {
    let texts = ["5/s", "5/3s", "7/1999ms", "7/2s"];
    let quotas: Vec<Quota> =
        Algorithm::ALL.into_iter().flat_map(|a| texts.map(|text| quota(text, a))).collect();
    for seed in 0..3 {
        let mut rng = Rng::with_seed(seed);
        let mut reference = Reference::new();
        let mut now = 0;
        for step in 0..40 {
            now += [0, 1, 1_000, 142_857, 400_000, 3_000_000][rng.usize(..6)];
            let mut keys: Vec<usize> = (0..8 * quotas.len()).collect();
            rng.shuffle(&mut keys);
            keys.truncate(1 + rng.usize(..100));
            let mut batch = Vec::new();
            for key in keys {
                let quota = quotas[key % quotas.len()];
                let check = fixture.check(format!("{seed} {key}"), quota, rng.u64(..4));
                let times = if rng.u8(..4) == 0 { 3 } else { 1 };
                batch.extend(vec![request([check], now); times]);
            }
            let verdicts = fixture.verdicts(&batch).await;
            for (request, verdict) in batch.iter().zip(verdicts) {
                let expected = reference.decide(request.checks(), at(now));
                assert_eq!(by_the_store(&verdict), expected, "seed {seed}, step {step}: {request:?}");
            }
        }
    }
}

pub(super) async fn empty(fixture: Fixture) {
    assert!(fixture.batch(&[]).await.is_empty());
}
