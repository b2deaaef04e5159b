//! ns per decision of [`Coalesce`] itself: CPU time of one thread that runs callers, layer and a store which
//! answers as soon as it has yielded once, against the same callers asking that store directly.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

#[path = "common/yielding.rs"]
mod yielding;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use limiter_core::{Coalesce, CoalesceConfig};
use std::sync::Arc;
use tokio::runtime::Builder;
use yielding::{requests, run, yielding};

/// How many callers ask at a time.
const CALLERS: [usize; 5] = [1, 4, 16, 64, 256];

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

criterion_group!(benches, coalesce);
criterion_main!(benches);
