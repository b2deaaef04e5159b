//! What a decision allocates: nothing, apart from the growth of a log and of the store.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "common/distant.rs"]
mod distant;
#[path = "common/key.rs"]
mod key;
#[path = "common/now_or_never.rs"]
mod now_or_never;

use allocation_counter::measure;
use async_trait::async_trait;
use distant::Distant;
use key::Key;
use limiter_core::{
    Algorithm, Backend, BackendError, Breaker, BreakerConfig, Check, Coalesce, CoalesceConfig, Degrade,
    DegradeConfig, Effect, ErrorKind, Figure, Keyspace, Locality, Memory, Observe, ObserveTrips, OnOutage,
    Quota, QuotaError, RateLimiter, Request, Rule, Shard, StorageKey, Verdict,
};
use metrics_util::debugging::DebuggingRecorder;
use now_or_never::now_or_never;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

/// A store that is away.
struct Away;

#[async_trait]
impl Backend for Away {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        let error = BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, "away", "decide", "away");
        vec![Err(error); batch.len()]
    }

    fn decide_now(&self, _request: &Request) -> Option<Result<Verdict, BackendError>> {
        None
    }

    fn shard(&self, _request: &Request) -> Shard {
        Shard::One(0)
    }

    fn accepts(&self, _quota: &Quota) -> Result<(), QuotaError> {
        Ok(())
    }

    async fn reset(&self, _keys: &[StorageKey]) -> Result<(), BackendError> {
        Ok(())
    }

    async fn ready(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    fn may_forget(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "away"
    }

    fn report(&self, _tell: &mut dyn FnMut(Figure)) {}
}

const START: u64 = 1_795_465_002_435_613;

/// An integer number of microseconds per permit, and one with a remainder.
fn quotas(algorithm: Algorithm) -> [Quota; 2] {
    ["100/s", "7/13s"].map(|text| format!("{text} {algorithm}").parse().unwrap())
}

#[test]
fn a_step_allocates_nothing() {
    for quota in Algorithm::ALL.into_iter().flat_map(quotas) {
        let mut key = Key::default();
        // A log grows until it holds a window's admissions, and then no more.
        let mut at = |i: u64| black_box(key.step(&quota, 1, START + i * 20_000)).allowed;
        let warm = (0..2_000).filter(|i| at(*i)).count();
        let counted = measure(|| assert!((2_000..4_000).any(&mut at)));
        assert_eq!((counted.count_total, warm > 0), (0, true), "{quota}");
    }
}

#[test]
fn a_decision_on_a_known_key_allocates_nothing() {
    for quota in Algorithm::ALL.into_iter().flat_map(quotas) {
        let memory = Memory::new();
        let keyspace = Keyspace::new("test", "allocation", quota.algorithm()).unwrap();
        let decide = || {
            let request = Request::one(Check { key: keyspace.key(b"user:42"), quota, cost: 1 }).unwrap();
            memory.decide_now(&request).unwrap().unwrap().allowed()
        };
        assert!(decide());
        let counted = measure(|| assert!((0..1_000).any(|_| !decide())));
        // The log of the hundred that are admitted first.
        let grown = if quota.algorithm() == Algorithm::SlidingLog { 8 } else { 0 };
        assert!(counted.count_total <= grown, "{quota}: {counted:?}");
    }
}

#[test]
fn a_limiter_allocates_nothing_for_a_known_key() {
    let limiter = RateLimiter::builder(Memory::new()).rule(Rule::new("user", "5/day")).build().unwrap();
    assert!(limiter.check_now("user:42").is_some_and(|decision| decision.allowed));
    let counted = measure(|| {
        for _ in 0..100 {
            let decided = now_or_never(limiter.check("user:42"));
            assert!(decided.is_some_and(|decision| decision.is_ok()));
            assert!(limiter.check_now("user:42").is_some());
        }
    });
    assert_eq!(counted.count_total, 0);
}

#[test]
fn observing_allocates_nothing_for_a_known_rule_and_key() {
    let recorder = DebuggingRecorder::new();
    let backend = Observe::new(Memory::new());
    let limiter = RateLimiter::builder(backend).rule(Rule::new("observed", "5/day")).build().unwrap();
    let decide = || (0..100).filter(|_| limiter.check_now("user:42").is_some()).count();
    assert_eq!(decide(), 100);
    let counted = measure(|| assert_eq!(decide(), 100));
    assert_eq!(counted.count_total, 0, "without a recorder");
    let _guard = metrics::set_default_local_recorder(&recorder);
    assert_eq!(decide(), 100);
    let counted = measure(|| assert_eq!(decide(), 100));
    assert_eq!(counted.count_total, 0, "with one");
}

/// README says "about 100 bytes"; 24-byte keys, the bucket with and without a remainder.
#[test]
fn a_key_of_24_bytes_takes_at_most_100() {
    const KEYS: u64 = 100_000;
    for quota in quotas(Algorithm::TokenBucket) {
        let memory = Memory::new();
        let keyspace = Keyspace::new("test", "bytes", Algorithm::TokenBucket).unwrap();
        let counted = measure(|| {
            for i in 0..KEYS {
                let key = format!("user:{i:019}");
                assert_eq!(key.len(), 24);
                let request =
                    Request::one(Check { key: keyspace.key(key.as_bytes()), quota, cost: 1 }).unwrap();
                let at = limiter_core::Timestamp::from_micros(START).unwrap();
                assert!(memory.decide_now(&request.at(at)).unwrap().unwrap().allowed());
            }
        });
        let bytes = counted.bytes_current / i64::try_from(KEYS).unwrap();
        assert!((1..=100).contains(&bytes), "{quota}: {bytes} bytes per key");
    }
}

/// Neither the store nor a future is touched, and nothing is allocated.
#[test]
fn an_answer_in_the_degraded_mode_allocates_nothing() {
    // So seldom that none is due in here, as the call that comes then would be the probe.
    let hour = Duration::from_secs(3_600);
    let config = BreakerConfig::new().failures_in_a_row(NonZeroU32::MIN).probe_interval(hour);
    let away = Breaker::new(Away, config.seed(1));
    let instances = NonZeroU32::new(4).unwrap();
    let config = DegradeConfig::new().on_outage(OnOutage::Local { instances });
    let layer = Degrade::new(away, config);
    let keyspace = Keyspace::new("test", "degraded", Algorithm::TokenBucket).unwrap();
    let quota = "7/13s".parse().unwrap();
    let request = Request::one(Check { key: keyspace.key(b"user:42"), quota, cost: 1 }).unwrap();
    assert!(now_or_never(layer.decide(std::slice::from_ref(&request))).is_some_and(|a| a[0].is_ok()));
    let counted = measure(|| {
        for _ in 0..100 {
            assert!(layer.decide_now(&request).is_some_and(|answer| answer.is_ok()));
        }
    });
    assert_eq!(counted.count_total, 0);
}

/// Whatever the layers are: what is above the queue is one future, and from the queue on it is a batch.
#[test]
fn a_decision_through_all_layers_is_one_future() {
    // In virtual time, so that nobody is late and the task that watches deadlines stays.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap();
    let rule = || Rule::new("user", "1000000/s");
    let count = |limiter: &RateLimiter| {
        let decide = || {
            let decided = runtime.block_on(limiter.check("user:42"));
            assert!(decided.is_ok_and(|decision| decision.allowed));
        };
        // The first starts the task that watches them.
        decide();
        measure(decide).count_total
    };
    let coalesced = Coalesce::new(ObserveTrips::new(Distant(Memory::new())), CoalesceConfig::new());
    let coalesced = RateLimiter::builder(coalesced).as_is().rule(rule()).build().unwrap();
    let layered = RateLimiter::builder(Distant(Memory::new())).rule(rule()).build().unwrap();
    assert_eq!(count(&layered), count(&coalesced));
}
