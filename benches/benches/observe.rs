//! ns that observing adds to a decision: around a backend that answers at once, and around the in-process store.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use async_trait::async_trait;
use benches::{keyspaces, plenty, poll_once};
use criterion::{Criterion, criterion_group, criterion_main};
use limiter_core::{
    Algorithm, Backend, BackendError, Figure, Locality, Memory, Observe, ObserveTrips, Quota, QuotaError,
    RateLimiter, Request, Rule, Shard, StorageKey, Verdict, metric,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use std::hint::black_box;
use std::sync::Arc;

const KEY: &str = "tenant:7/user:0000000042";

/// The same answer to everything.
struct Instant(Verdict);

impl Instant {
    fn new(request: &Request) -> Self {
        Self(Memory::new().decide_now(request).expect("always ready").expect("never without an answer"))
    }
}

#[async_trait]
impl Backend for Instant {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        batch.iter().map(|_| Ok(self.0.clone())).collect()
    }

    fn decide_now(&self, _request: &Request) -> Option<Result<Verdict, BackendError>> {
        Some(Ok(self.0.clone()))
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
        Locality::InProcess
    }

    fn may_forget(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "instant"
    }

    fn report(&self, _tell: &mut dyn FnMut(Figure)) {}
}

fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &metric::SECONDS_BUCKETS)
        .expect("buckets")
        .build_recorder()
}

fn at_once(c: &mut Criterion) {
    let quota = plenty(Algorithm::TokenBucket).build().expect("a quota that can be enforced");
    let request = Request::by_key(&keyspaces().expect("short names"), KEY.as_bytes(), &quota, 1);
    let bare = Instant::new(&request);
    c.bench_function("instant/decide_now/bare", |b| b.iter(|| bare.decide_now(black_box(&request))));
    let observed = Observe::new(Instant::new(&request));
    c.bench_function("instant/decide_now/observed, no recorder", |b| {
        b.iter(|| observed.decide_now(black_box(&request)));
    });
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    c.bench_function("instant/decide_now/observed, Prometheus", |b| {
        b.iter(|| observed.decide_now(black_box(&request)));
    });
}

/// With a wait: the caller's time and the store's, around a store that takes none.
fn trips(c: &mut Criterion) {
    let quota = plenty(Algorithm::TokenBucket).build().expect("a quota that can be enforced");
    let request = Request::by_key(&keyspaces().expect("short names"), KEY.as_bytes(), &quota, 1);
    let batch = [request];
    let bare = Instant::new(&batch[0]);
    c.bench_function("instant/decide/bare", |b| b.iter(|| poll_once(bare.decide(black_box(&batch)))));
    let observed = Observe::new(ObserveTrips::new(Instant::new(&batch[0])));
    c.bench_function("instant/decide/observed twice, no recorder", |b| {
        b.iter(|| poll_once(observed.decide(black_box(&batch))));
    });
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut told = 0_u32;
    c.bench_function("instant/decide/observed twice, Prometheus", |b| {
        b.iter(|| {
            told += 1;
            if told.is_multiple_of(65_536) {
                // As an exporter does every few seconds: what histograms are told piles up.
                recorder.handle().run_upkeep();
            }
            poll_once(observed.decide(black_box(&batch)))
        });
    });
}

fn memory(c: &mut Criterion) {
    let limiter = |backend: Arc<dyn Backend>| {
        let rule = Rule::new("user", plenty(Algorithm::TokenBucket));
        RateLimiter::builder(backend).as_is().rule(rule).build().expect("one rule")
    };
    let run = |c: &mut Criterion, name: &str, limiter: &RateLimiter| {
        c.bench_function(&format!("RateLimiter::check_now/{name}"), |b| {
            b.iter(|| limiter.check_now(black_box(KEY)));
        });
    };
    run(c, "bare", &limiter(Arc::new(Memory::new())));
    let observed = limiter(Arc::new(Observe::new(Memory::new())));
    run(c, "observed, no recorder", &observed);
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    run(c, "observed, Prometheus", &observed);
}

criterion_group!(benches, at_once, trips, memory);
criterion_main!(benches);
