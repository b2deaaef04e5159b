//! Redis, through the suite that every backend passes: a single server by every way that leads to it, a cluster of
//! three, and behind Sentinel.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use limiter_core::{Coalesce, CoalesceConfig};
use limiter_redis::Redis;
use limiter_testkit::Harness;
use limiter_testkit::servers::{self, RedisCluster, RedisSentinel, ServerError};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

/// A server of a row's own: started when a case first needs it, stopped after the last.
struct Own<T>(Arc<OnceLock<T>>);

impl<T> Own<T> {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn get(&self, start: impl FnOnce() -> Result<T, ServerError>) -> &T {
        self.0.get_or_init(|| start().unwrap_or_else(|error| panic!("{error}")))
    }
}

impl<T> Clone for Own<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

fn connect(url: impl Into<String>) -> Redis {
    Redis::connect(url).expect("a URL of Redis")
}

fn shared() -> String {
    servers::shared::redis_url().unwrap_or_else(|error| panic!("{error}"))
}

fn cluster(own: &Own<RedisCluster>) -> Redis {
    let urls = own.get(|| RedisCluster::start(3, 0)).urls();
    connect(urls[0].replace("redis://", "redis-cluster://"))
}

fn sentinel(own: &Own<RedisSentinel>) -> Redis {
    let own = own.get(RedisSentinel::start);
    let hosts: Vec<String> = own.sentinel_urls().iter().map(|url| url.replace("redis://", "")).collect();
    connect(format!("redis-sentinel://{}/{}", hosts.join(","), own.service_name()))
}

fn unix(own: &Own<servers::Redis>) -> Redis {
    let own = own.get(servers::Redis::start);
    connect(format!("redis+unix://{}", own.unix_socket().display()))
}

fn main() -> ExitCode {
    let (clustered, watched, local) = (Own::new(), Own::new(), Own::new());
    let rows = [
        Harness::new("redis", async || connect(shared())),
        Harness::new("coalesced", async || Coalesce::new(connect(shared()), CoalesceConfig::new())),
        Harness::new("coalesced-at-once", async || {
            Coalesce::new(connect(shared()), CoalesceConfig::new().eager(0))
        }),
        Harness::new("resp2", async || connect(format!("{}?protocol=resp2", shared()))),
        Harness::new("client", async || {
            let client = limiter_redis::redis::Client::open(shared()).expect("a URL of Redis");
            Redis::from_client(client).build().expect("a client")
        }),
        {
            let own = local.clone();
            Harness::new("unix", move || std::future::ready(unix(&own)))
        },
        {
            let own = clustered.clone();
            Harness::new("cluster", move || std::future::ready(cluster(&own)))
        },
        {
            let own = watched.clone();
            Harness::new("sentinel", move || std::future::ready(sentinel(&own)))
        },
    ];
    limiter_testkit::main(rows)
}
