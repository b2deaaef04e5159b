//! A sliding log of the highest limit, full.

use crate::common::key;
use limiter_core::algorithm::{Log, SlidingLog, Step};
use limiter_core::{Backend, Check, Quota, Request, StorageKey};
use limiter_redis::Redis;
use limiter_testkit::faults::at;
use limiter_testkit::servers;

const LIMIT: u64 = Quota::MAX_LOG_LIMIT;

/// A permit each millisecond and two now and then: full before the first leaves.
const STEP: u64 = 1_000;

struct Full {
    redis: Redis,
    key: StorageKey,
    quota: Quota,
    log: Log,
    now: u64,
}

impl Full {
    /// The answers to requests that follow each other, and that they are those of core's function.
    async fn ask(&mut self, costs: impl IntoIterator<Item = u64>, step: u64) -> u64 {
        let mut instants = Vec::new();
        let batch: Vec<Request> = costs
            .into_iter()
            .map(|cost| {
                self.now += step;
                instants.push((self.now, cost));
                let check = Check { key: self.key.clone(), quota: self.quota, cost };
                Request::one(check).expect("a check").at(at(self.now))
            })
            .collect();
        let mut admitted = 0;
        for (answer, (now, cost)) in self.redis.decide(&batch).await.into_iter().zip(instants) {
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
    let server = servers::Redis::start().expect("a Redis");
    let redis =
        Redis::builder(server.url()).timeout(std::time::Duration::from_secs(5)).build().expect("a URL");
    let quota: Quota = format!("{LIMIT}/100s sliding-log").parse().expect("a quota");
    let mut full = Full { redis, key: key(quota, "full"), quota, log: Log::default(), now: 0 };
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
        full.now += 7_300_000 + round;
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
