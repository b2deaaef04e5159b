//! ns per decision of [`Coalesce`] itself: CPU time of one thread that runs callers, layer and a store which
//! answers as soon as it has yielded once, against the same callers asking that store directly.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use async_trait::async_trait;
use benches::{keys, keyspaces, order, plenty};
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use limiter_core::{
    Algorithm, Backend, BackendError, Coalesce, CoalesceConfig, Decision, Figure, Locality, Memory, Quota,
    QuotaError, Request, Shard, StorageKey, Verdict,
};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, sync::LazyLock};
use tokio::runtime::{Builder, Runtime};

/// Distinct keys.
const KEYS: usize = 10_000;

/// How many callers ask at a time.
const CALLERS: [usize; 5] = [1, 4, 16, 64, 256];

/// Longer than any call waits, so that the timer of a deadline is set and never fires.
const DEADLINE: Duration = Duration::from_secs(60);

/// A store that costs nothing but a yield, and says the same to everyone.
struct Yielding(Decision);

#[async_trait]
impl Backend for Yielding {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        tokio::task::yield_now().await;
        batch.iter().map(|_| Ok(Verdict::one(self.0))).collect()
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

    fn name(&self) -> &'static str {
        "yielding"
    }

    fn report(&self, _tell: &mut dyn FnMut(Figure)) {}
}

fn coalesce(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let requests = Arc::new(requests());
    let mut group = c.benchmark_group("coalesce");
    group.throughput(Throughput::Elements(1));
    for callers in CALLERS {
        let layer = || Coalesce::new(yielding(), CoalesceConfig::new());
        let always = || Coalesce::new(yielding(), CoalesceConfig::new().eager(0));
        run(&mut group, &runtime, &format!("{callers}/direct"), callers, yielding(), &requests, false);
        run(&mut group, &runtime, &format!("{callers}/default"), callers, layer(), &requests, false);
        run(
            &mut group,
            &runtime,
            &format!("{callers}/default, deadlines"),
            callers,
            layer(),
            &requests,
            true,
        );
        run(&mut group, &runtime, &format!("{callers}/eager(0)"), callers, always(), &requests, false);
    }
}

/// Each caller asks again as soon as it has its answer.
fn run<B: Backend>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    name: &str,
    callers: usize,
    backend: B,
    requests: &Arc<Vec<Request>>,
    deadlines: bool,
) {
    // As the limiter holds it.
    let backend: Arc<dyn Backend> = Arc::new(backend);
    group.bench_function(name, |b| {
        b.iter_custom(|decisions| {
            let each = usize::try_from(decisions).expect("a count").div_ceil(callers);
            let start = thread_time();
            runtime.block_on(async {
                let tasks: Vec<_> = (0..callers)
                    .map(|caller| {
                        let (backend, requests) = (Arc::clone(&backend), Arc::clone(requests));
                        tokio::spawn(async move {
                            let deadline = deadlines.then(|| tokio::time::Instant::now() + DEADLINE);
                            for i in 0..each {
                                // As the limiter does: a request of its own, on the heap.
                                let request = requests[(caller * 7_919 + i) % KEYS].clone();
                                let request = Box::new(match deadline {
                                    Some(deadline) => request.with_deadline(deadline),
                                    None => request,
                                });
                                let batch = std::slice::from_ref(&*request);
                                assert!(black_box(backend.decide(batch).await.pop()).is_some());
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.expect("no caller panics");
                }
            });
            let asked = u128::try_from(each * callers).expect("a count");
            let nanos = (thread_time() - start).as_nanos() * u128::from(decisions) / asked;
            Duration::from_nanos(u64::try_from(nanos).expect("a short run"))
        });
    });
}

/// The CPU time of this thread, so that it does not matter who else runs. Linux tells it in steps of a scheduler's tick;
/// elsewhere it is the time that passes.
fn thread_time() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let told = fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|told| told.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.elapsed(), Duration::from_nanos)
}

fn requests() -> Vec<Request> {
    let quota = plenty(Algorithm::TokenBucket).build().expect("a quota that is accepted");
    let rule = keyspaces().expect("short names");
    let keys = keys(KEYS);
    let order = order(KEYS, KEYS, 1).into_iter();
    order.map(|key| Request::by_key(&rule, keys[key].as_bytes(), &quota, 1)).collect()
}

fn yielding() -> Yielding {
    let verdict = Memory::new().decide_now(&requests()[0]).and_then(Result::ok).expect("a verdict");
    Yielding(verdict.decisions()[0])
}

criterion_group!(benches, coalesce);
criterion_main!(benches);
