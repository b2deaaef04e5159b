//! A sliding log of many entries, full.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{fresh, key, sql};
use limiter_core::algorithm::{Log, SlidingLog, Step};
use limiter_core::{Backend, Check, Quota, Request, StorageKey};
use limiter_postgres::Postgres;
use limiter_testkit::faults::at;

const LIMIT: u64 = 10_000;

/// A permit each millisecond and two now and then: full before the first leaves.
const STEP: u64 = 1_000;

struct Full {
    postgres: Postgres,
    key: StorageKey,
    quota: Quota,
    log: Log,
    now: u64,
}

impl Full {
    /// What is admitted of requests that follow each other, and that the answers are those of core's function.
    async fn ask(&mut self, costs: impl IntoIterator<Item = u64>, step: u64) -> u64 {
        let mut instants = Vec::new();
        let one = |cost| {
            self.now += step;
            instants.push((self.now, cost));
            let check = Check { key: self.key.clone(), quota: self.quota, cost };
            Request::one(check).expect("a check").at(at(self.now))
        };
        let batch: Vec<Request> = costs.into_iter().map(one).collect();
        let mut admitted = 0;
        for (answer, (now, cost)) in self.postgres.decide(&batch).await.into_iter().zip(instants) {
            let verdict = answer.expect("an answer");
            let expected = SlidingLog::step(&mut self.log, &self.quota, cost, at(now));
            assert_eq!(verdict.decisions(), [expected], "{cost} at {now} us");
            admitted += u64::from(expected.allowed) * cost;
        }
        admitted
    }
}

#[tokio::test]
async fn a_full_log_is_exact_and_bounded() {
    let (server, postgres) = fresh().await;
    let quota: Quota = format!("{LIMIT}/10s sliding-log").parse().expect("a quota");
    let mut full = Full { postgres, key: key(quota, "full"), quota, log: Log::default(), now: 0 };
    // 9,800 entries of which some weigh more.
    let mut admitted = 0;
    for _ in 0..98 {
        admitted += full.ask((0..100).map(|i| 1 + u64::from(i % 50 == 0)), STEP).await;
    }
    assert_eq!(admitted, 9_996);
    // Full, and then denied with every distance to bisect.
    assert_eq!(full.ask([LIMIT - admitted], STEP).await, LIMIT - admitted);
    assert_eq!(full.ask([1, 2, 3, 10, 100, 500, 7_777, LIMIT, LIMIT + 1, 0], 1).await, 0);
    let entries = || sql(&server, "SELECT count(*) FROM rate_limits_log").parse::<u64>().expect("a number");
    assert_eq!(entries(), 9_801);
    // Ages by steps until all has left; what is admitted on the way drops what has left.
    for round in 0..40 {
        full.now += 730_000 + round;
        let _ = full.ask([0, 1, 3_000, LIMIT, 7, 0], 3).await;
        let _ = full.ask((0..90).map(|i| 1 + i % 3), 1_001).await;
        assert!(entries() <= 9_801 + 100, "{} entries", entries());
    }
    assert!(entries() < 2_500, "{} entries of some 1,400 that live", entries());
}
