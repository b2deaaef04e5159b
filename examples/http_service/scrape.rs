//! What Prometheus scrapes: the limiter's metrics as a page.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use distributed_rate_limiter::{RateLimiter, metric};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use std::time::Duration;

/// A recorder with the buckets of the limiter's histograms; without them, the exporter makes summaries, which cannot be
/// added up over instances.
pub(crate) fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let requests = Matcher::Full(metric::TRIP_REQUESTS.name().to_owned());
    let exporter = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &metric::SECONDS_BUCKETS)?
        .set_buckets_for_metric(requests, &metric::REQUESTS_BUCKETS)?;
    Ok(exporter.build_recorder())
}

/// Not limited, and for operators only: a real service has it on a port of its own.
pub(crate) fn router(exporter: PrometheusHandle, limiter: RateLimiter) -> Router {
    let page = move || {
        // Gauges are at most a second old; asking makes them new.
        let _figures = limiter.report();
        let page = exporter.render();
        async { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], page) }
    };
    Router::new().route("/metrics", get(page))
}

/// Takes in what histograms were told, which piles up between scrapes.
pub(crate) async fn keep_up(exporter: PrometheusHandle) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        exporter.run_upkeep();
    }
}
