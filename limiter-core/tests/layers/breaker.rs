//! When a breaker opens, who is let through meanwhile, and when it closes.

mod closes;
mod gone;
mod opens;
mod parts;
mod probes;

use crate::remote::Remote;
use crate::{Answer, ask, decide};
use limiter_core::{Breaker, BreakerConfig, BreakerState, Deadline, DeadlineConfig, Effect, ErrorKind};
use std::sync::Arc;
use tokio::task::JoinHandle;

type Layer = Arc<Breaker<Deadline<Remote>>>;

const OPEN: Option<(ErrorKind, Effect)> = Some((ErrorKind::Unavailable, Effect::NotApplied));
const PAID: Option<(ErrorKind, Effect)> = Some((ErrorKind::Timeout, Effect::Unknown));

fn layer(remote: &Remote, seed: u64) -> Layer {
    let inner = Deadline::new(remote.clone(), DeadlineConfig::new());
    Arc::new(Breaker::new(inner, BreakerConfig::new().seed(seed)))
}

fn state(layer: &Layer) -> BreakerState {
    layer.usage().parts[0].1
}

fn spawn(layer: &Layer, key: &'static str) -> JoinHandle<Answer> {
    let layer = Arc::clone(layer);
    tokio::spawn(async move { decide(&*layer, &ask(key)).await })
}

/// Asks until it is open.
async fn open(layer: &Layer) {
    for _ in 0..20 {
        let _failed = decide(&**layer, &ask("a")).await;
        if state(layer) == BreakerState::Open {
            return;
        }
    }
    panic!("{layer:?}");
}
