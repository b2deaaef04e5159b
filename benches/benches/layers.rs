//! ns per decision of each layer around a store that is well: CPU time of one thread that runs callers, layers and a
//! store which answers as soon as it has yielded once; the rows of one run are to be compared. And what is answered
//! without a future.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

#[path = "common/yielding.rs"]
mod yielding;

use async_trait::async_trait;
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use limiter_core::algorithm::{BucketReading, Reading};
use limiter_core::{
    Backend, BackendError, Breaker, BreakerConfig, Check, Coalesce, CoalesceConfig, Deadline, DeadlineConfig,
    Degrade, DegradeConfig, DenyCache, DenyCacheConfig, Effect, ErrorKind, Figure, Keyspace, Locality, Quota,
    QuotaError, Request, Shard, StandardConfig, StorageKey, Verdict, standard,
};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use yielding::{requests, run, yielding};

/// How many callers ask at a time.
const CALLERS: [usize; 2] = [1, 256];

/// Longer than any call waits, so that timers are set and never fire.
const PATIENT: DeadlineConfig = DeadlineConfig::new().decision(Duration::from_secs(60));

fn layers(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut group = c.benchmark_group("layers");
    group.throughput(Throughput::Elements(1));
    for callers in CALLERS {
        let coalesce = || Coalesce::new(yielding(), CoalesceConfig::new());
        let all = standard(Arc::new(yielding()), StandardConfig::new().deadline(PATIENT));
        let mut row =
            |name: &str, backend: Arc<dyn Backend>| row(&mut group, &runtime, callers, name, backend);
        row("store", Arc::new(yielding()));
        row("deadline", Arc::new(Deadline::new(yielding(), PATIENT)));
        row("breaker", Arc::new(Breaker::new(yielding(), BreakerConfig::new())));
        row("degrade", Arc::new(Degrade::new(yielding(), DegradeConfig::new())));
        row("deny cache", Arc::new(DenyCache::new(yielding(), DenyCacheConfig::new())));
        row("coalesce", Arc::new(coalesce()));
        row("coalesce, deadline", Arc::new(Deadline::new(coalesce(), PATIENT)));
        row("standard", all);
    }
}

/// A store that denies everybody, having read an empty bucket, or is away.
struct Saying {
    is_away: bool,
}

#[async_trait]
impl Backend for Saying {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        let answer = |request: &Request| {
            let away =
                || BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, "saying", "decide", "away");
            if self.is_away {
                return Err(away());
            }
            let now = request.now();
            let empty = Reading::Bucket(BucketReading::new(now.as_micros() + 3_600_000_000, 0));
            Reading::verdict(request.checks(), &[empty], now).ok_or_else(away)
        };
        batch.iter().map(answer).collect()
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

    fn report(&self, _tell: &mut dyn FnMut(Figure)) {}

    fn name(&self) -> &'static str {
        "saying"
    }
}

/// What the whole stack answers without a future, over a thousand keys.
fn at_once(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut group = c.benchmark_group("at once");
    let quota = Quota::per_hour(1_000).build().expect("a quota");
    let keyspace = Keyspace::new("benches", "at-once", quota.algorithm()).expect("short names");
    let request = |key: u32| Request::one(Check { key: keyspace.key(&key.to_le_bytes()), quota, cost: 1 });
    let requests: Vec<Request> = (0..1_000).filter_map(|key| request(key).ok()).collect();
    for (name, is_away) in [("a remembered denial", false), ("a local decision", true)] {
        let cache = DenyCacheConfig::new().until_reset();
        let stack = standard(Arc::new(Saying { is_away }), StandardConfig::new().deny_cache(cache));
        let _guard = runtime.enter();
        for request in &requests {
            assert_eq!(runtime.block_on(stack.decide(std::slice::from_ref(request))).len(), 1);
        }
        assert!(stack.decide_now(&requests[0]).is_some(), "{name}");
        let mut turn = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                turn = (turn + 1) % requests.len();
                black_box(stack.decide_now(&requests[turn]))
            });
        });
    }
}

fn row(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    callers: usize,
    name: &str,
    backend: Arc<dyn Backend>,
) {
    run(group, runtime, &format!("{callers}/{name}"), callers, backend, &Arc::new(requests()), false);
}

criterion_group!(benches, layers, at_once);
criterion_main!(benches);
