use super::cluster::all;
use super::process::wait_until;
use super::resp::Value;
use super::{Redis, RedisBuilder, ServerError};

/// A primary and a replica, and three sentinels of which two must agree.
///
/// A primary that is silent for half a second is given up.
#[derive(Debug)]
pub struct RedisSentinel {
    redis: [Redis; 2],
    sentinels: Vec<Redis>,
}

const SERVICE: &str = RedisSentinel::SERVICE;

impl RedisSentinel {
    /// The name under which the sentinels know the service.
    pub const SERVICE: &str = "limiter";

    /// Starts them all, and returns when the sentinels know each other and the replica.
    ///
    /// # Errors
    /// Redis is not on this machine, or they do not find each other.
    pub fn start() -> Result<Self, ServerError> {
        Self::start_with(Redis::builder())
    }

    /// The same of servers and sentinels with options; where they speak TLS, also with each other.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(options: RedisBuilder) -> Result<Self, ServerError> {
        let options = options.among_others()?;
        let primary = options.clone().start()?;
        let replica = options.clone().config("replicaof", format!("127.0.0.1 {}", primary.port())).start()?;
        // Sentinels find replicas at once if these are there first, and else ten seconds later.
        wait_until("the replica follows", || {
            Ok(replica.info("master_link_status")?.as_deref() == Some("up"))
        })?;
        let sentinels = all(3, |_| {
            options
                .clone()
                .sentinel()
                .config("sentinel", format!("monitor {SERVICE} 127.0.0.1 {} 2", primary.port()))
                .config("sentinel", format!("down-after-milliseconds {SERVICE} 500"))
                .config("sentinel", format!("failover-timeout {SERVICE} 2000"))
                .start()
        })?;
        let these = Self { redis: [primary, replica], sentinels };
        wait_until("the sentinels know each other", || {
            for sentinel in &these.sentinels {
                let known = sentinel.command(&["SENTINEL", "MASTER", SERVICE])?;
                let number = |name| known.field(name).and_then(Value::int);
                if (number("num-other-sentinels"), number("num-slaves")) != (Some(2), Some(1)) {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        Ok(these)
    }

    /// The URLs of the sentinels.
    #[must_use]
    pub fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Redis::url).collect()
    }

    /// The sentinels, which can be killed and paused like any server.
    #[must_use]
    pub fn sentinels(&self) -> &[Redis] {
        &self.sentinels
    }

    /// Which server the sentinels name as the primary now.
    ///
    /// # Errors
    /// No sentinel answers, or they name none of the two.
    pub fn primary(&self) -> Result<&Redis, ServerError> {
        Ok(&self.redis[self.primary_index()?])
    }

    /// The other one.
    ///
    /// # Errors
    /// As [`primary`](Self::primary).
    pub fn replica(&self) -> Result<&Redis, ServerError> {
        Ok(&self.redis[1 - self.primary_index()?])
    }

    /// Swaps the two in good order (`SENTINEL FAILOVER`); returns when the new primary takes writes and all sentinels
    /// name it.
    ///
    /// # Errors
    /// The sentinels refuse, or it takes more than 30 seconds.
    pub fn failover(&self) -> Result<(), ServerError> {
        let next = self.replica()?.port();
        let sentinel = self.running()?;
        wait_until("the sentinels agree to a failover", || {
            // Refused for a moment after another one.
            Ok(sentinel.command(&["SENTINEL", "FAILOVER", SERVICE]).is_ok() || self.named(sentinel)? == next)
        })?;
        self.wait_for_primary(next)
    }

    /// Waits until all sentinels that run name the server of this port as the primary, and it takes writes.
    ///
    /// # Errors
    /// It takes more than 30 seconds.
    pub fn wait_for_primary(&self, port: u16) -> Result<(), ServerError> {
        wait_until("the replica is the primary", || {
            for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.pid().is_some()) {
                if self.named(sentinel)? != port {
                    return Ok(false);
                }
            }
            Ok(self.primary()?.info("role")?.as_deref() == Some("master"))
        })
    }

    fn primary_index(&self) -> Result<usize, ServerError> {
        let port = self.named(self.running()?)?;
        self.redis.iter().position(|redis| redis.port() == port).ok_or_else(|| ServerError::Refused {
            command: "SENTINEL".to_owned(),
            answer: format!("the primary's port is {port}, which is neither server's"),
        })
    }

    fn running(&self) -> Result<&Redis, ServerError> {
        self.sentinels.iter().find(|sentinel| sentinel.pid().is_some()).ok_or_else(|| ServerError::Refused {
            command: "SENTINEL".to_owned(),
            answer: "all sentinels were killed".to_owned(),
        })
    }

    /// The port of the primary, as this sentinel sees it.
    fn named(&self, sentinel: &Redis) -> Result<u16, ServerError> {
        let addr = sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE])?;
        let port = addr.items().get(1).and_then(Value::int);
        Ok(port.and_then(|port| u16::try_from(port).ok()).unwrap_or_default())
    }
}
