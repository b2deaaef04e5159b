//! A sliding log of the highest limit, full.

use crate::common::key;
use limiter_core::Quota;
use limiter_redis::Redis;
use limiter_testkit::faults::LongLog;
use limiter_testkit::servers;

const LIMIT: u64 = Quota::MAX_LOG_LIMIT;

/// A permit each millisecond and two now and then: full before the first leaves.
const STEP: u64 = 1_000;

#[tokio::test]
async fn a_full_log_is_exact_and_bounded() {
    let server = servers::Redis::start().expect("a Redis");
    let redis =
        Redis::builder(server.url()).timeout(std::time::Duration::from_secs(5)).build().expect("a URL");
    let quota: Quota = format!("{LIMIT}/100s sliding-log").parse().expect("a quota");
    let mut full = LongLog::new(redis, key(quota, "full"), quota);
    // 98,000 records of which some weigh more.
    let mut admitted = 0;
    for _ in 0..98 {
        admitted += full.ask((0..1_000).map(|i| 1 + u64::from(i % 500 == 0)), STEP).await;
    }
    assert_eq!(admitted, 98_196);
    // Full, and then denied with every distance to bisect.
    assert_eq!(full.ask([LIMIT - admitted], STEP).await, LIMIT - admitted);
    assert_eq!(full.ask([1, 2, 3, 10, 100, 5_000, 77_777, LIMIT, LIMIT + 1, 0], 1).await, 0);
    let name = server.command(&["KEYS", "*full"]).expect("keys");
    let name = name.items()[0].text().expect("a name").to_owned();
    let most = 2 * i64::try_from(LIMIT).expect("a limit") * 35;
    // Ages by steps until all has left; what is admitted on the way makes the log longer, and drops what has left.
    let (mut longest, mut compactions) = (0, 0);
    for round in 0..40 {
        full.wait(7_300_000 + round);
        let _ = full.ask([0, 1, 30_000, LIMIT, 7, 0], 3).await;
        let _ = full.ask((0..900).map(|i| 1 + i % 3), 1_001).await;
        let length = server.command(&["STRLEN", &name]).expect("a length").int().expect("a number");
        let memory = server.command(&["MEMORY", "USAGE", &name]).expect("a size").int().expect("a number");
        assert!(length <= most && memory <= most + 2_000_000, "{length} bytes in {memory}");
        compactions += u32::from(length < longest);
        longest = longest.max(length);
    }
    assert!(longest > 98_000 * 35 && compactions > 0, "{longest} bytes at most, {compactions} compactions");
}
