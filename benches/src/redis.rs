//! Contestants on one Redis: a bare command, and the library.

use crate::load::Contestant;
use crate::run;
use limiter_core::{Coalesce, CoalesceConfig, Quota};
use limiter_redis::Redis;
use limiter_redis::redis::aio::MultiplexedConnection;
use limiter_redis::redis::{Client, IntoConnectionInfo, cmd};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// The bare command as the driver comes: small packets wait for each other, which on loopback lets more of them share a
/// system call.
pub const INCR: &str = "INCR";

/// As the library sets its own connection, and as a network wants it.
pub const INCR_AT_ONCE: &str = "INCR, TCP_NODELAY";

/// The server that everyone asks, and the keys that they ask about.
#[derive(Debug)]
pub struct Target {
    /// Where the server is.
    pub url: String,
    /// The keys, by their indices.
    pub names: Arc<[String]>,
    plain: MultiplexedConnection,
    at_once: MultiplexedConnection,
}

impl Target {
    /// The server at this URL, asked about one of 10,000 keys.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn connect(url: String) -> Result<Self, Box<dyn Error>> {
        let info = url.as_str().into_connection_info()?;
        let settings = info.tcp_settings().clone().set_nodelay(true);
        let plain = Client::open(info.clone())?.get_multiplexed_async_connection().await?;
        let at_once =
            Client::open(info.set_tcp_settings(settings))?.get_multiplexed_async_connection().await?;
        Ok(Self { url, plain, at_once, names: crate::keys(10_000).into() })
    }

    /// One `INCR` per question, by the driver's defaults and by the library's.
    ///
    /// # Panics
    /// The caller that an error answers.
    #[must_use]
    pub fn bare(&self) -> [Contestant; 2] {
        [(INCR, &self.plain), (INCR_AT_ONCE, &self.at_once)].map(|(name, connection)| {
            let (connection, names) = (connection.clone(), Arc::clone(&self.names));
            Contestant::new(name, move |key| {
                let (mut connection, names) = (connection.clone(), Arc::clone(&names));
                async move {
                    let answer: Result<i64, _> =
                        cmd("INCR").arg(&names[key]).query_async(&mut connection).await;
                    assert!(answer.is_ok(), "{answer:?}");
                }
            })
        })
    }

    /// One `RateLimiter::check` per question, through batches or not.
    ///
    /// # Errors
    /// None: the names are short.
    ///
    /// # Panics
    /// The caller that an error answers.
    pub fn limiter(
        &self,
        name: &'static str,
        quota: Quota,
        coalesces: bool,
    ) -> Result<Contestant, Box<dyn Error>> {
        // A busy machine is no outage.
        let redis = Redis::builder(&self.url).timeout(Duration::from_secs(5)).build()?;
        Ok(if coalesces {
            run::limiter(name, Coalesce::new(redis, CoalesceConfig::new()), quota, &self.names)?
        } else {
            run::limiter(name, redis, quota, &self.names)?
        })
    }
}
