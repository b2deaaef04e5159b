//! Redis, through the suite that every backend passes: a single server by every way that leads to it, a cluster of
//! three, and behind Sentinel.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod inside;

use inside::Server;
use limiter_core::{Coalesce, CoalesceConfig, DeadlineConfig, StandardConfig, standard};
use limiter_redis::Redis;
use limiter_testkit::Harness;
use limiter_testkit::servers::{self, RedisSentinel};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

/// A busy machine may take long; what a reply that does not come means is tested elsewhere.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(url: impl Into<String>) -> Redis {
    Redis::builder(url).timeout(PATIENCE).build().expect("a URL of Redis")
}

fn shared() -> String {
    servers::shared::redis_url().unwrap_or_else(|error| panic!("{error}"))
}

fn cluster() -> Redis {
    let urls = servers::shared::redis_cluster_urls().unwrap_or_else(|error| panic!("{error}"));
    connect(urls[0].replace("redis://", "redis-cluster://"))
}

fn sentinel() -> Redis {
    let urls = servers::shared::redis_sentinel_urls().unwrap_or_else(|error| panic!("{error}"));
    let hosts = urls.join(",").replace("redis://", "");
    connect(format!("redis-sentinel://{hosts}/{}", RedisSentinel::SERVICE))
}

/// By the socket of a server of this row's own, which is started when a case first needs it.
fn unix(own: &OnceLock<servers::Redis>) -> Redis {
    let own = own.get_or_init(|| servers::Redis::start().unwrap_or_else(|error| panic!("{error}")));
    connect(format!("redis+unix://{}", own.unix_socket().display()))
}

/// A store that keeps states so long beyond their time, and a look into it.
fn kept_for(time: Duration) -> (Redis, Server) {
    let url = shared();
    let redis = Redis::builder(url.clone())
        .timeout(PATIENCE)
        .grace(time)
        .virtual_expiry(time)
        .build()
        .expect("a URL of Redis");
    (redis.clone(), Server::new(redis, &url))
}

fn patient() -> StandardConfig {
    StandardConfig::new().deadline(DeadlineConfig::new().decision(PATIENCE).upkeep(PATIENCE))
}

fn main() -> ExitCode {
    let local = OnceLock::new();
    limiter_testkit::main([
        Harness::new("redis", async || connect(shared()))
            .across_processes()
            .inside(async || kept_for(Duration::from_secs(3_600)))
            .expiring(async || kept_for(Duration::from_millis(100))),
        Harness::new("coalesced", async || Coalesce::new(connect(shared()), CoalesceConfig::new()))
            .across_processes(),
        Harness::new("coalesced-at-once", async || {
            Coalesce::new(connect(shared()), CoalesceConfig::new().eager(0))
        }),
        Harness::new("standard", async || standard(Arc::new(connect(shared())), patient())),
        Harness::new("standard-cluster", async || standard(Arc::new(cluster()), patient())),
        Harness::new("resp2", async || connect(format!("{}?protocol=resp2", shared()))),
        Harness::new("client", async || {
            let client = limiter_redis::redis::Client::open(shared()).expect("a URL of Redis");
            Redis::from_client(client).timeout(PATIENCE).build().expect("a client")
        }),
        Harness::new("unix", move || std::future::ready(unix(&local))),
        Harness::new("cluster", async || cluster()).across_processes(),
        Harness::new("sentinel", async || sentinel()).across_processes(),
    ])
}
