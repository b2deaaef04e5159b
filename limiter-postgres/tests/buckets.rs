//! Batches that one pass over the rows decides, for the most part or whole: every answer is the reference's.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{fresh, key};
use fastrand::Rng;
use limiter_core::{Backend, Check, Quota, Request, Timestamp};
use limiter_testkit::Reference;

const START: u64 = 1_795_465_002_435_613;

/// Of whole us per permit, but for one, whose states the others then find.
const QUOTAS: [&str; 5] =
    ["10/s", "60/minute burst 7", "5/10s leaky-bucket", "1000/s burst 3", "7/13s burst 9"];

fn any_batch(rng: &mut Rng, seed: u64, now: u64) -> Vec<Request> {
    let mut batch = Vec::new();
    for name in 0..5 {
        let quota: Quota =
            QUOTAS[if rng.u8(..6) == 0 { 4 } else { rng.usize(..4) }].parse().expect("a quota");
        let cost = if rng.u8(..12) == 0 { rng.u64(0..12) } else { rng.u64(1..4) };
        let check = Check { key: key(quota, &format!("{seed} {name}")), quota, cost };
        let request = Request::one(check).expect("a request");
        let request = request.at(Timestamp::from_micros(now).expect("an instant"));
        batch.extend(std::iter::repeat_n(request, rng.usize(0..5)));
    }
    // Batches of one kind alone go the short way as a whole.
    if rng.bool() {
        batch.retain(|request| {
            request.checks()[0].cost > 0 && request.checks()[0].quota.to_string() != QUOTAS[4]
        });
    }
    rng.shuffle(&mut batch);
    batch
}

#[tokio::test]
async fn every_answer_is_the_references() {
    let (_server, postgres) = fresh().await;
    for seed in 0..12 {
        let mut rng = Rng::with_seed(seed);
        let mut reference = Reference::new();
        let mut now = START;
        for step in 0..60 {
            now = match rng.u8(..10) {
                0 => now - rng.u64(..30_000_000),
                1 => now + rng.u64(..60_000_000),
                2..5 => now,
                _ => now + rng.u64(..1_500_000),
            };
            let batch = any_batch(&mut rng, seed, now);
            let answers = postgres.decide(&batch).await;
            assert_eq!(answers.len(), batch.len());
            for (request, answer) in batch.iter().zip(answers) {
                let at = request.instant().expect("an instant");
                let expected = reference.decide(request.checks(), at);
                let verdict = answer.expect("an answer");
                assert_eq!(verdict.decisions(), expected, "seed {seed}, step {step}: {:?}", request.checks());
            }
        }
    }
}
