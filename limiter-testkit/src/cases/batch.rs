//! Batches: an answer for each request, in its place, as if they had come one by one.

use crate::fixture::{Fixture, quota, request};
use crate::reference::Reference;
use fastrand::Rng;
use limiter_core::{Algorithm, Decision, Request};

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

pub(super) async fn empty(fixture: Fixture) {
    assert!(fixture.batch(&[]).await.is_empty());
}
