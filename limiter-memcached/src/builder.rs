use crate::backend::Memcached;
use crate::server::Manner;
use crate::store::Servers;
use limiter_core::{CasBackend, CasConfig};
use std::fmt;
use std::time::Duration;

/// A [`Memcached`] in the making. Nothing is connected before the first request.
///
/// | URL | the store |
/// |---|---|
/// | `memcached://host:11211` | one server; without a port, 11211 |
/// | `memcached://a:11211,b:11211` | several: each key is on one of them, chosen by their names |
///
/// Every instance has to call the servers by the same names and ports, in any order.
///
/// # Example
/// ```
/// use limiter_core::RateLimiter;
/// use limiter_memcached::Memcached;
/// use std::time::Duration;
///
/// let memcached = Memcached::builder("memcached://10.0.0.1,10.0.0.2:11212")
///     .connect_timeout(Duration::from_secs(1))
///     .max_item_bytes(8 << 20)
///     .build()?;
/// let limiter = RateLimiter::new(100, Duration::from_secs(60), memcached)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct MemcachedBuilder {
    url: String,
    timeout: Duration,
    connect_timeout: Duration,
    max_item_bytes: u64,
    allow_eviction: bool,
    cas: CasConfig,
}

/// Nobody waits longer for a decision.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Memcached's default, `-I 1m`.
const ITEM_BYTES: u64 = 1 << 20;

const PORT: u16 = 11_211;

/// A store that cannot be built as it was described. It quotes nothing of the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text has no scheme, or another one.
    #[error("a URL of Memcached starts with memcached://")]
    Scheme,
    /// A name or port cannot be.
    #[error("server {position} is none: host, host:port, or [address]:port, separated by commas")]
    Server {
        /// Its position in the list, from 0.
        position: usize,
    },
    /// One server is named twice.
    #[error("server {position} is named before")]
    Repeated {
        /// Its position in the list, from 0.
        position: usize,
    },
    /// There is something that Memcached has no use for.
    #[error("a URL of Memcached has servers only: no user, path or query")]
    Unused,
}

impl MemcachedBuilder {
    pub(crate) fn url(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            timeout: Duration::from_millis(250),
            connect_timeout: Duration::from_secs(1),
            max_item_bytes: ITEM_BYTES,
            allow_eviction: false,
            cas: CasConfig::new(),
        }
    }

    /// How long a reply may take, at most an hour; 250 ms by default. A caller's own deadline may be shorter.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long connecting may take, name resolution included; 1 s by default.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The largest item that every server takes, `-I`; 1 MiB by default, as Memcached's own. Quotas whose states could
    /// be larger are refused. A server that takes less is noticed when it is connected.
    pub const fn max_item_bytes(mut self, bytes: u64) -> Self {
        self.max_item_bytes = bytes;
        self
    }

    /// Accepts servers that evict items, and so can forget a limit that is used up; without,
    /// [`ready`](limiter_core::Backend::ready) reports one that has just done so.
    pub const fn allow_eviction(mut self) -> Self {
        self.allow_eviction = true;
        self
    }

    /// How requests are combined, how often they are tried, and for how long states are kept.
    pub const fn cas(mut self, config: CasConfig) -> Self {
        self.cas = config;
        self
    }

    /// The store. Connects to nothing yet, so that it succeeds while the servers are down.
    ///
    /// # Errors
    /// A URL that is not understood.
    pub fn build(self) -> Result<Memcached, ConfigError> {
        let addresses = addresses(&self.url)?;
        let manner = Manner {
            timeout: self.timeout.min(LONGEST_TIMEOUT),
            connect_timeout: self.connect_timeout.min(LONGEST_TIMEOUT),
            connections: self.cas.trips_at_once().saturating_add(CONNECTIONS_BESIDE),
            ask_every: Duration::from_secs(60),
        };
        let most = self.max_item_bytes.saturating_sub(crate::server::OVERHEAD);
        let servers = Servers::new(addresses, manner, most, self.allow_eviction);
        Ok(Memcached::new(CasBackend::with_config(crate::error::NAME, servers, self.cas)))
    }
}

impl fmt::Debug for MemcachedBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URL, in which somebody may have put a password.
        f.debug_struct("MemcachedBuilder")
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_item_bytes", &self.max_item_bytes)
            .field("allow_eviction", &self.allow_eviction)
            .field("cas", &self.cas)
            .finish_non_exhaustive()
    }
}

/// For resets and questions, beside the trips.
const CONNECTIONS_BESIDE: usize = 4;

/// Host and port of each server.
fn addresses(url: &str) -> Result<Vec<String>, ConfigError> {
    let servers = url.strip_prefix("memcached://").ok_or(ConfigError::Scheme)?;
    let servers = servers.strip_suffix('/').unwrap_or(servers);
    if servers.contains(['@', '/', '?', '#']) {
        return Err(ConfigError::Unused);
    }
    let mut addresses: Vec<String> = Vec::new();
    for (position, server) in servers.split(',').enumerate() {
        let address = address(server).ok_or(ConfigError::Server { position })?;
        if addresses.contains(&address) {
            return Err(ConfigError::Repeated { position });
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn address(server: &str) -> Option<String> {
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port > 0)?),
        _ => (server, PORT),
    };
    let is_host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
        Some(address) => address?.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            !host.is_empty() && host.chars().all(is_part)
        }
    };
    is_host.then(|| format!("{}:{port}", host.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_servers() {
        let read = |url| addresses(url).unwrap().join(" ");
        assert_eq!(read("memcached://a:1,B"), "a:1 b:11211");
        assert_eq!(read("memcached://127.0.0.1:11211/"), "127.0.0.1:11211");
        assert_eq!(read("memcached://[::1]:1,[::2]"), "[::1]:1 [::2]:11211");
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for (url, error) in [
            ("a:1", ConfigError::Scheme),
            ("redis://a", ConfigError::Scheme),
            ("memcached://", ConfigError::Server { position: 0 }),
            ("memcached://a,", ConfigError::Server { position: 1 }),
            ("memcached://a:port", ConfigError::Server { position: 0 }),
            ("memcached://a:0", ConfigError::Server { position: 0 }),
            ("memcached://a:65536", ConfigError::Server { position: 0 }),
            ("memcached://[::1", ConfigError::Server { position: 0 }),
            ("memcached://[a]:1", ConfigError::Server { position: 0 }),
            ("memcached://a b", ConfigError::Server { position: 0 }),
            ("memcached://a,b,A:11211", ConfigError::Repeated { position: 2 }),
            ("memcached://user:secret@a", ConfigError::Unused),
            ("memcached://a/0", ConfigError::Unused),
            ("memcached://a?timeout=1", ConfigError::Unused),
        ] {
            assert_eq!(addresses(url), Err(error), "{url}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
