//! A sliding log of many entries, full.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{fresh, key, sql};
use limiter_core::Quota;
use limiter_testkit::faults::LongLog;

const LIMIT: u64 = 10_000;

/// A permit each millisecond and two now and then: full before the first leaves.
const STEP: u64 = 1_000;

#[tokio::test]
async fn a_full_log_is_exact_and_bounded() {
    let (server, postgres) = fresh().await;
    let quota: Quota = format!("{LIMIT}/10s sliding-log").parse().expect("a quota");
    let mut full = LongLog::new(postgres, key(quota, "full"), quota);
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
        full.wait(730_000 + round);
        let _ = full.ask([0, 1, 3_000, LIMIT, 7, 0], 3).await;
        let _ = full.ask((0..90).map(|i| 1 + i % 3), 1_001).await;
        assert!(entries() <= 9_801 + 100, "{} entries", entries());
    }
    assert!(entries() < 2_500, "{} entries of some 1,400 that live", entries());
}
