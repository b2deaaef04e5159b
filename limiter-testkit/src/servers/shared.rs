//! One server of each sort for all tests of a process that need none of their own.
//!
//! The environment may name a running one: `LIMITER_TEST_REDIS_URL`, `LIMITER_TEST_REDIS_CLUSTER_URLS` (its nodes',
//! separated by commas), `LIMITER_TEST_REDIS_SENTINEL_URLS` (the sentinels', of a service named `limiter`),
//! `LIMITER_TEST_MEMCACHED_URL`, `LIMITER_TEST_MEMCACHED_URLS` (three, separated by commas), `LIMITER_TEST_POSTGRES_URL`.
//! Nothing is ever flushed there; tests keep to random namespaces. Otherwise a server is started when it is first asked
//! for, and ends with the process.

use super::{Memcached, Postgres, Redis, RedisCluster, RedisSentinel, ServerError};
use std::sync::{Mutex, PoisonError};

struct Shared<S> {
    variable: &'static str,
    /// Never dropped; a server's keeper sees to its end.
    server: Mutex<Option<S>>,
}

impl<S> Shared<S> {
    const fn new(variable: &'static str) -> Self {
        Self { variable, server: Mutex::new(None) }
    }

    fn url(
        &self,
        start: fn() -> Result<S, ServerError>,
        url: fn(&S) -> String,
    ) -> Result<String, ServerError> {
        if let Ok(running) = std::env::var(self.variable) {
            return Ok(running);
        }
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = &*server {
            return Ok(url(server));
        }
        let started = start()?;
        let address = url(&started);
        *server = Some(started);
        Ok(address)
    }

    /// The variable and the URL, if there is a server by now.
    fn known(&self, url: fn(&S) -> String) -> Option<(&'static str, String)> {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.as_ref().map(|server| (self.variable, url(server)))
    }
}

static REDIS: Shared<Redis> = Shared::new("LIMITER_TEST_REDIS_URL");
static CLUSTER: Shared<RedisCluster> = Shared::new("LIMITER_TEST_REDIS_CLUSTER_URLS");
static SENTINEL: Shared<RedisSentinel> = Shared::new("LIMITER_TEST_REDIS_SENTINEL_URLS");
static MEMCACHED: Shared<Memcached> = Shared::new("LIMITER_TEST_MEMCACHED_URL");
static MEMCACHEDS: Shared<[Memcached; 3]> = Shared::new("LIMITER_TEST_MEMCACHED_URLS");
static POSTGRES: Shared<Postgres> = Shared::new("LIMITER_TEST_POSTGRES_URL");

/// The URL of a Redis.
///
/// # Errors
/// None is named, and none can be started.
pub fn redis_url() -> Result<String, ServerError> {
    REDIS.url(Redis::start, Redis::url)
}

/// The URLs of the nodes of a Redis Cluster, of three primaries without replicas if it is started here.
///
/// # Errors
/// None is named, and none can be started.
pub fn redis_cluster_urls() -> Result<Vec<String>, ServerError> {
    let urls = CLUSTER.url(|| RedisCluster::start(3, 0), |cluster| cluster.urls().join(","))?;
    Ok(urls.split(',').map(str::to_owned).collect())
}

/// The URLs of sentinels, who know a primary and its replica as [`RedisSentinel::SERVICE`].
///
/// # Errors
/// None are named, and none can be started.
pub fn redis_sentinel_urls() -> Result<Vec<String>, ServerError> {
    let urls = SENTINEL.url(RedisSentinel::start, |sentinel| sentinel.sentinel_urls().join(","))?;
    Ok(urls.split(',').map(str::to_owned).collect())
}

/// The URL of a Memcached.
///
/// # Errors
/// None is named, and none can be started.
pub fn memcached_url() -> Result<String, ServerError> {
    MEMCACHED.url(Memcached::start, Memcached::url)
}

/// The URLs of three Memcached that are used as one.
///
/// # Errors
/// None are named, and none can be started.
pub fn memcached_urls() -> Result<Vec<String>, ServerError> {
    let start = || Ok([Memcached::start()?, Memcached::start()?, Memcached::start()?]);
    let urls = MEMCACHEDS.url(start, each)?;
    Ok(urls.split(',').map(str::to_owned).collect())
}

fn each(servers: &[Memcached; 3]) -> String {
    servers.each_ref().map(Memcached::url).join(",")
}

/// The URL of a PostgreSQL.
///
/// # Errors
/// None is named, and none can be started.
pub fn postgres_url() -> Result<String, ServerError> {
    POSTGRES.url(Postgres::start, Postgres::url)
}

/// The variables by which another process finds the servers that this one has started.
#[must_use]
pub fn environment() -> Vec<(&'static str, String)> {
    let started = [
        REDIS.known(Redis::url),
        CLUSTER.known(|cluster| cluster.urls().join(",")),
        SENTINEL.known(|sentinel| sentinel.sentinel_urls().join(",")),
        MEMCACHED.known(Memcached::url),
        MEMCACHEDS.known(each),
        POSTGRES.known(Postgres::url),
    ];
    started.into_iter().flatten().collect()
}
