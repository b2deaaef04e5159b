//! What the tests put under load.
#![allow(dead_code, reason = "each test uses its own part")]

use limiter_core::{Backend, Coalesce, CoalesceConfig};
use limiter_redis::{Redis, RedisBuilder};
use limiter_testkit::servers;
use std::sync::Arc;
use std::time::Duration;

/// The store as it is, and under a layer that puts callers together as soon as there are two.
pub(crate) fn stacks(builder: &RedisBuilder) -> Vec<Arc<dyn Backend>> {
    let store = || builder.clone().build().expect("a URL of Redis");
    vec![Arc::new(store()), Arc::new(Coalesce::new(store(), CoalesceConfig::new().eager(1)))]
}

/// A look at a server, that waits for as long as a busy machine may take.
pub(crate) fn patient(server: &servers::Redis) -> Redis {
    let builder = Redis::builder(server.url()).timeout(Duration::from_secs(5));
    builder.connect_timeout(Duration::from_secs(5)).build().expect("a URL of Redis")
}

/// The same, of which states are gone soon after their time.
pub(crate) fn patient_and_forgetful(server: &servers::Redis) -> Redis {
    let builder = Redis::builder(server.url()).grace(Duration::from_millis(50));
    builder.timeout(Duration::from_secs(5)).build().expect("a URL of Redis")
}
