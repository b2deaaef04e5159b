//! What observing costs on Redis, with a Prometheus recorder: `cargo run --release -p benches --bin observe`.
//!
//! Coalesced decisions with both observing layers and without any, in turns, so that a busy machine slows both alike.

use benches::load::{Contestant, Scenario, compete};
use benches::{keys, plenty};
use limiter_core::{
    Algorithm, Backend, Coalesce, CoalesceConfig, Error, Observe, ObserveTrips, RateLimiter, Rule, metric,
};
use limiter_redis::Redis;
use limiter_testkit::servers;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use std::sync::Arc;
use std::time::Duration;

fn contestant(name: &'static str, backend: impl Backend) -> Result<Contestant, Error> {
    let rule = Rule::new("bench", plenty(Algorithm::TokenBucket));
    let limiter = RateLimiter::builder(backend).namespace(name).rule(rule).build()?;
    let names: Arc<[String]> = keys(10_000).into();
    Ok(Contestant::new(name, move |key| {
        let (limiter, names) = (limiter.clone(), Arc::clone(&names));
        async move {
            let decision = limiter.check(&names[key]).await;
            assert!(decision.is_ok(), "{decision:?}");
        }
    }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &metric::SECONDS_BUCKETS)?
        .build_recorder();
    let exporter = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            exporter.run_upkeep();
        }
    });
    let server = servers::Redis::start()?;
    let open = || Redis::builder(server.url()).timeout(Duration::from_secs(5)).build();
    let config = CoalesceConfig::new();
    let contestants = [
        contestant("plain", Coalesce::new(open()?, config))?,
        contestant("observed", Observe::new(Coalesce::new(ObserveTrips::new(open()?), config)))?,
    ];
    println!("observed, as a ratio to what is not (medians of ratios within a repetition):");
    for (callers, keys) in [(1, 10_000), (256, 10_000), (256, 1)] {
        let scenario = Scenario { callers, keys, turn: Duration::from_millis(700) };
        let turns = compete(&contestants, scenario, 9).await;
        let [plain, observed] = &turns[..] else { return Err("two contestants".into()) };
        let rate = observed.ratio_to(plain, |turn| turn.rate);
        #[expect(clippy::cast_precision_loss, reason = "microseconds")]
        let p50 = observed.ratio_to(plain, |turn| turn.latency.value_at_quantile(0.5) as f64);
        println!(
            "  {callers:>3} callers, {keys:>6} keys: {rate:.3} of {:.0} decisions per second, p50 {p50:.3}",
            plain.median(|turn| turn.rate)
        );
    }
    Ok(())
}
