//! ns per decision of each layer around a store that is well: CPU time of one thread that runs callers, layers and a
//! store which answers as soon as it has yielded once; the rows of one run are to be compared. And what is answered
//! without a future.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

#[path = "common/yielding.rs"]
mod yielding;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use limiter_core::{
    Backend, Breaker, BreakerConfig, Coalesce, CoalesceConfig, Deadline, DeadlineConfig, Degrade,
    DegradeConfig, DenyCache, DenyCacheConfig, StandardConfig, standard,
};
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

fn row(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    callers: usize,
    name: &str,
    backend: Arc<dyn Backend>,
) {
    run(group, runtime, &format!("{callers}/{name}"), callers, backend, &Arc::new(requests()), false);
}

criterion_group!(benches, layers);
criterion_main!(benches);
