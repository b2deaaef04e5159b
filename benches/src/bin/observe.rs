//! What observing costs on Redis, with a Prometheus recorder: `cargo run --release -p benches --bin observe`.
//!
//! Coalesced decisions with both observing layers and without any, in turns, so that a busy machine slows both alike.
//!
//! One hot key has no floor: there a decision is half a microsecond of this process, and to observe one is two looks at
//! the clock and a value in the exporter's histogram, which keeps each with a look of its own.

use benches::floors::Floor;
use benches::run::{self, Run};
use benches::stores::Fallible;
use limiter_core::{Coalesce, CoalesceConfig, Observe, ObserveTrips, metric};
use limiter_redis::Redis;
use limiter_testkit::servers;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const TURN: Duration = Duration::from_millis(700);

const PLAIN: &str = "not observed";
const OBSERVED: &str = "observed";

fn main() -> Fallible<ExitCode> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &metric::SECONDS_BUCKETS)?
        .build_recorder();
    let exporter = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| error.to_string())?;
    let mut run = Run::from_args(TURN);
    let server = servers::Redis::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            exporter.run_upkeep();
        }
    });
    runtime.block_on(async {
        let (names, quota) = (Arc::from(benches::keys(10_000)), benches::ample().build()?);
        // A busy machine is no outage.
        let open = || Redis::builder(server.url()).timeout(Duration::from_secs(5)).build();
        let config = CoalesceConfig::new();
        let observed = Observe::new(Coalesce::new(ObserveTrips::new(open()?), config));
        let contestants = [
            run::limiter(PLAIN, Coalesce::new(open()?, config), quota, &names)?,
            run::limiter(OBSERVED, observed, quota, &names)?,
        ];
        let floor = Floor::rate(OBSERVED, PLAIN, 0.9);
        for (callers, keys, floors) in [(1, 10_000, &[floor][..]), (256, 10_000, &[floor]), (256, 1, &[])] {
            let name = format!("callers: {callers}, keys: {keys}");
            run.scenario(&name, callers, keys, &contestants, floors).await;
        }
        Fallible::Ok(())
    })?;
    Ok(run.exit_code())
}
