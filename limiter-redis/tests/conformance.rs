//! Redis, through the suite that every backend passes: a single server by every way that leads to it, a cluster of
//! three, and behind Sentinel.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod inside;

use inside::Servers;
use limiter_core::{Coalesce, CoalesceConfig, DeadlineConfig, StandardConfig, standard};
use limiter_redis::{Redis, RedisBuilder};
use limiter_testkit::Harness;
use limiter_testkit::servers::{self, RedisSentinel};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

/// A busy machine may take long; what a reply that does not come means is tested elsewhere.
const PATIENCE: Duration = Duration::from_secs(20);

fn patient(url: impl Into<String>) -> RedisBuilder {
    Redis::builder(url).timeout(PATIENCE)
}

fn connect(url: impl Into<String>) -> Redis {
    patient(url).build().expect("a URL of Redis")
}

fn shared() -> String {
    servers::shared::redis_url().unwrap_or_else(|error| panic!("{error}"))
}

fn nodes() -> Vec<String> {
    servers::shared::redis_cluster_urls().unwrap_or_else(|error| panic!("{error}"))
}

fn cluster() -> String {
    nodes()[0].replace("redis://", "redis-cluster://")
}

fn sentinels() -> Vec<String> {
    servers::shared::redis_sentinel_urls().unwrap_or_else(|error| panic!("{error}"))
}

fn sentinel() -> String {
    let hosts = sentinels().join(",").replace("redis://", "");
    format!("redis-sentinel://{hosts}/{}", RedisSentinel::SERVICE)
}

/// By the socket of a server of this row's own, which is started when a case first needs it.
fn unix(own: &OnceLock<servers::Redis>) -> Redis {
    let own = own.get_or_init(|| servers::Redis::start().unwrap_or_else(|error| panic!("{error}")));
    connect(format!("redis+unix://{}", own.unix_socket().display()))
}

/// A store that keeps states so long beyond their time.
fn keeping(url: String, time: Duration) -> Redis {
    patient(url).grace(time).virtual_expiry(time).build().expect("a URL of Redis")
}

/// Such stores, and a look into each.
fn single_for(time: Duration) -> (Redis, Servers) {
    let redis = keeping(shared(), time);
    (redis.clone(), Servers::new(redis, [shared()]))
}

fn cluster_for(time: Duration) -> (Redis, Servers) {
    let redis = keeping(cluster(), time);
    (redis.clone(), Servers::new(redis, nodes()))
}

fn sentinel_for(time: Duration) -> (Redis, Servers) {
    let redis = keeping(sentinel(), time);
    (redis.clone(), Servers::behind(redis, &sentinels()[0], RedisSentinel::SERVICE))
}

const HOUR: Duration = Duration::from_secs(3_600);
const MOMENT: Duration = Duration::from_millis(100);

fn layers() -> StandardConfig {
    StandardConfig::new().deadline(DeadlineConfig::new().decision(PATIENCE).upkeep(PATIENCE))
}

fn main() -> ExitCode {
    let local = OnceLock::new();
    limiter_testkit::main([
        Harness::new("redis", async || connect(shared()))
            .across_processes()
            .inside(async || single_for(HOUR))
            .expiring(async || single_for(MOMENT)),
        Harness::new("coalesced", async || Coalesce::new(connect(shared()), CoalesceConfig::new()))
            .across_processes(),
        Harness::new("coalesced-at-once", async || {
            Coalesce::new(connect(shared()), CoalesceConfig::new().eager(0))
        }),
        Harness::new("standard", async || standard(Arc::new(connect(shared())), layers())),
        Harness::new("standard-cluster", async || standard(Arc::new(connect(cluster())), layers())),
        Harness::new("resp2", async || connect(format!("{}?protocol=resp2", shared()))),
        Harness::new("client", async || {
            let client = limiter_redis::redis::Client::open(shared()).expect("a URL of Redis");
            Redis::from_client(client).timeout(PATIENCE).build().expect("a client")
        }),
        Harness::new("unix", move || std::future::ready(unix(&local))),
        Harness::new("cluster", async || connect(cluster()))
            .across_processes()
            .inside(async || cluster_for(HOUR))
            .expiring(async || cluster_for(MOMENT)),
        Harness::new("sentinel", async || connect(sentinel()))
            .across_processes()
            .inside(async || sentinel_for(HOUR))
            .expiring(async || sentinel_for(MOMENT)),
    ])
}
