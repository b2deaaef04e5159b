//! The coalescing layer: what travels together, and who gets which answer whatever happens on the way.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod batching;
mod fake_store;
mod faults;
#[path = "../common/now_or_never.rs"]
mod now_or_never;
mod stress;
mod waiting;
mod wakers;

use fake_store::{FakeStore, ask, id_of};
use limiter_core::{
    Backend, BackendError, Coalesce, CoalesceConfig, CoalesceUsage, Effect, ErrorKind, Verdict,
};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

type Layer = Arc<Coalesce<Arc<FakeStore>>>;
type Answer = Result<Verdict, BackendError>;

const LATE: Option<(ErrorKind, Effect)> = Some((ErrorKind::Timeout, Effect::NotApplied));
const GIVEN_UP: Option<(ErrorKind, Effect)> = Some((ErrorKind::Timeout, Effect::Unknown));
const FULL: Option<(ErrorKind, Effect)> = Some((ErrorKind::Overloaded, Effect::NotApplied));
const NO_RUNTIME: Option<(ErrorKind, Effect)> = Some((ErrorKind::Config, Effect::NotApplied));
const LOST: Option<(ErrorKind, Effect)> = Some((ErrorKind::Unexpected, Effect::Unknown));

fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn layer(store: &Arc<FakeStore>, config: CoalesceConfig) -> Layer {
    Arc::new(Coalesce::new(Arc::clone(store), config))
}

/// Only a call that finds nothing outstanding is sent as it is; one trip at a time.
fn always() -> CoalesceConfig {
    CoalesceConfig::new().eager(0).slots(count(1))
}

fn spawn(layer: &Layer, ids: impl IntoIterator<Item = u64>) -> JoinHandle<Vec<Answer>> {
    let (layer, batch) = (Arc::clone(layer), ids.into_iter().map(ask).collect::<Vec<_>>());
    tokio::spawn(async move { layer.decide(&batch).await })
}

/// One caller for each id.
fn callers(layer: &Layer, ids: impl IntoIterator<Item = u64>) -> Vec<JoinHandle<Vec<Answer>>> {
    ids.into_iter().map(|id| spawn(layer, [id])).collect()
}

/// What each caller got, in their order.
async fn answers(callers: Vec<JoinHandle<Vec<Answer>>>) -> Vec<Answer> {
    let mut all = Vec::new();
    for caller in callers {
        // In virtual time, where nothing else is left to wait for.
        all.extend(timeout(Duration::from_secs(3_600), caller).await.unwrap().unwrap());
    }
    all
}

fn ids(answers: &[Answer]) -> Vec<Option<u64>> {
    answers.iter().map(id_of).collect()
}

fn some(ids: impl IntoIterator<Item = u64>) -> Vec<Option<u64>> {
    ids.into_iter().map(Some).collect()
}

/// Lets everything that can run do so.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

fn is_empty(layer: &Layer) -> bool {
    let CoalesceUsage { queued, in_flight, .. } = layer.usage();
    (queued, in_flight) == (0, 0)
}
