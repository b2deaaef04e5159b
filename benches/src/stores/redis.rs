//! Redis, and bare commands on it.

use super::{Fallible, Store};
use crate::load::{Ask, Contestant};
use crate::run;
use async_trait::async_trait;
use limiter_core::{Backend, Coalesce, CoalesceConfig, Quota};
use limiter_redis::redis::aio::MultiplexedConnection;
use limiter_redis::redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, cmd};
use limiter_testkit::servers;
use std::sync::Arc;
use std::time::Duration;

/// The bare command as the driver comes: small packets wait for each other, which on loopback lets more of them share a
/// system call.
pub const INCR: &str = "INCR";

/// With small packets sent at once, as a network wants it, and as the library's own are.
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
    /// The server at this URL, asked about these keys.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn connect(url: String, names: Arc<[String]>) -> Fallible<Self> {
        let info = url.as_str().into_connection_info()?;
        let settings = info.tcp_settings().clone().set_nodelay(true);
        let (plain, at_once) = (dial(info.clone()).await?, dial(info.set_tcp_settings(settings)).await?);
        Ok(Self { url, plain, at_once, names })
    }

    /// One `INCR` per question, as the driver comes and with `TCP_NODELAY`.
    ///
    /// # Panics
    /// The caller that an error answers.
    #[must_use]
    pub fn bare(&self) -> [Contestant; 2] {
        [(INCR, &self.plain), (INCR_AT_ONCE, &self.at_once)].map(|(name, connection)| {
            let (connection, names) = (connection.clone(), Arc::clone(&self.names));
            Contestant::new(name, Incr { connection, names })
        })
    }

    /// One `RateLimiter::check` per question, through batches or not.
    ///
    /// # Errors
    /// None: the names are short.
    ///
    /// # Panics
    /// The caller that an error answers.
    pub fn limiter(&self, name: &'static str, quota: Quota, coalesces: bool) -> Fallible<Contestant> {
        let redis = self.redis()?;
        Ok(if coalesces {
            run::limiter(name, Coalesce::new(redis, CoalesceConfig::new()), quota, &self.names)?
        } else {
            run::limiter(name, redis, quota, &self.names)?
        })
    }

    /// One `RateLimiter::check` per question, with all that a limiter puts around a store by default.
    ///
    /// # Errors
    /// None: the names are short.
    ///
    /// # Panics
    /// The caller that an error answers.
    pub fn with_all_layers(&self, name: &'static str, quota: Quota) -> Fallible<Contestant> {
        Ok(run::with_all_layers(name, self.redis()?, quota, &self.names)?)
    }

    fn redis(&self) -> Fallible<limiter_redis::Redis> {
        Ok(limiter_redis::Redis::builder(&self.url).timeout(PATIENCE).build()?)
    }
}

/// As long as everyone waits for a reply: a busy machine is no outage.
const PATIENCE: Duration = Duration::from_secs(5);

async fn dial(info: ConnectionInfo) -> Fallible<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    Ok(Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?)
}

/// One `INCR` per question.
#[derive(Clone)]
struct Incr {
    connection: MultiplexedConnection,
    names: Arc<[String]>,
}

impl Ask for Incr {
    async fn ask(&mut self, key: usize) {
        let answer: Result<i64, _> =
            cmd("INCR").arg(&self.names[key]).query_async(&mut self.connection).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
}

/// A server of its own.
#[derive(Debug)]
pub struct Redis {
    server: servers::Redis,
    target: Target,
}

impl Redis {
    /// Starts a server, to be asked about these keys.
    ///
    /// # Errors
    /// It is not on this machine, or does not come up.
    pub async fn start(names: Arc<[String]>) -> Fallible<Self> {
        let server = servers::Redis::start()?;
        let target = Target::connect(server.url(), names).await?;
        Ok(Self { server, target })
    }
}

#[async_trait]
impl Store for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn version(&self) -> Fallible<String> {
        Ok(format!("Redis {}", self.server.info("redis_version")?.unwrap_or_default()))
    }

    async fn bare(&self) -> Fallible<Vec<Contestant>> {
        Ok(self.target.bare().into())
    }

    async fn backend(&self, weighed: bool) -> Fallible<Arc<dyn Backend>> {
        if weighed {
            self.server.command(&["FLUSHALL", "SYNC"])?;
        }
        Ok(Arc::new(Coalesce::new(self.target.redis()?, CoalesceConfig::new())))
    }

    async fn bytes_per_key(&self, keys: u64) -> Fallible<f64> {
        let mut connection = self.target.plain.clone();
        let names: Vec<Vec<u8>> = cmd("KEYS").arg("*").query_async(&mut connection).await?;
        if names.len() as u64 != keys {
            return Err(format!("{} keys, not {keys}", names.len()).into());
        }
        let mut bytes = 0;
        for name in &names {
            let usage: u64 = cmd("MEMORY").arg("USAGE").arg(name).query_async(&mut connection).await?;
            bytes += usage;
        }
        Ok(crate::float(bytes) / crate::float(keys))
    }

    fn counts_bytes_by(&self) -> &'static str {
        "MEMORY USAGE: key, value and their places in the table"
    }
}
