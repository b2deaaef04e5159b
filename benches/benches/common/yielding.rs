//! A store that costs nothing but a yield, and callers of it.

use async_trait::async_trait;
use benches::{keys, keyspaces, order, plenty};
use criterion::{BenchmarkGroup, measurement::WallTime};
use limiter_core::{
    Algorithm, Backend, BackendError, Decision, Figure, Locality, Memory, Quota, QuotaError, Request, Shard,
    StorageKey, Verdict,
};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, sync::LazyLock};
use tokio::runtime::Runtime;

/// Distinct keys.
const KEYS: usize = 10_000;

/// As many decisions take longer than the steps in which a thread's time is told.
const FEWEST: usize = 50_000;

/// Longer than any call waits, so that the timer of a deadline is set and never fires.
const DEADLINE: Duration = Duration::from_secs(60);

/// A store that costs nothing but a yield, and says the same to everyone.
pub(crate) struct Yielding(Decision);

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

    fn may_forget(&self) -> bool {
        false
    }

    fn report(&self, _tell: &mut dyn FnMut(Figure)) {}

    fn name(&self) -> &'static str {
        "yielding"
    }
}

/// Each caller asks again as soon as it has its answer.
pub(crate) fn run<B: Backend>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    name: &str,
    callers: usize,
    backend: B,
    requests: &Arc<Vec<Request>>,
    deadlines: bool,
) {
    let backend = Arc::new(backend);
    group.bench_function(name, |b| {
        b.iter_custom(|decisions| {
            let each = usize::try_from(decisions).expect("a count").max(FEWEST).div_ceil(callers);
            let start = thread_time();
            runtime.block_on(async {
                let tasks: Vec<_> = (0..callers)
                    .map(|caller| {
                        let (backend, requests) = (Arc::clone(&backend), Arc::clone(requests));
                        tokio::spawn(async move {
                            let deadline = deadlines.then(|| tokio::time::Instant::now() + DEADLINE);
                            for i in 0..each {
                                let request = requests[(caller * 7_919 + i) % KEYS].clone();
                                let request = match deadline {
                                    Some(deadline) => request.with_deadline(deadline),
                                    None => request,
                                };
                                let backend = &*backend;
                                // As the limiter does: a future of its own, on the heap, which has the request.
                                let decided = Box::pin(async move { backend.decide_one(&request).await });
                                assert!(black_box(decided.await).is_ok());
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

pub(crate) fn requests() -> Vec<Request> {
    let quota = plenty(Algorithm::TokenBucket).build().expect("a quota that is accepted");
    let rule = keyspaces().expect("short names");
    let keys = keys(KEYS);
    let order = order(KEYS, KEYS, 1).into_iter();
    order.map(|key| Request::by_key(&rule, keys[key].as_bytes(), &quota, 1)).collect()
}

pub(crate) fn yielding() -> Yielding {
    let verdict = Memory::new().decide_now(&requests()[0]).and_then(Result::ok).expect("a verdict");
    Yielding(verdict.decisions()[0])
}
