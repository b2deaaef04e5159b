use crate::backend::Redis;
use crate::batch::Keep;
use crate::cluster::Cluster;
use crate::link::Link;
use crate::route::Route;
use crate::server::Server;
use crate::target::Target;
use crate::trips::Trips;
use redis::{Client, ConnectionInfo, RedisError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// A [`Redis`] in the making. Nothing is connected before the first request.
///
/// | URL | the store |
/// |---|---|
/// | `redis://user:password@host:6379/0` | one server |
/// | `redis+unix:///run/redis.sock`, `unix:///run/redis.sock` | one server, by a Unix socket |
/// | `redis-cluster://user:password@a:7000,b:7000` | a Redis Cluster, by some of its nodes |
/// | `redis-sentinel://user:password@a:26379,b:26379/service` | the primary that Sentinel names for `service` |
/// | `rediss://..`, `rediss-cluster://..`, `rediss-sentinel://..` | the same through TLS (feature `tls`) |
///
/// The user and password of a `redis-sentinel` URL are those of the servers that Sentinel names. Where the sentinels ask for
/// one, `?sentinel_password=..`, with `&sentinel_username=..` if it is not the default user's.
///
/// # Example
/// ```
/// use limiter_core::RateLimiter;
/// use limiter_redis::Redis;
/// use std::time::Duration;
///
/// let redis = Redis::builder("redis-sentinel://10.0.0.1:26379,10.0.0.2:26379/limits")
///     .connect_timeout(Duration::from_secs(1))
///     .max_in_flight(256)
///     .build()?;
/// let limiter = RateLimiter::new(100, Duration::from_secs(60), redis)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct RedisBuilder {
    source: Source,
    certificates: Certificates,
    timeout: Duration,
    connect_timeout: Duration,
    grace: Duration,
    virtual_expiry: Duration,
    max_in_flight: usize,
    allow_eviction: bool,
}

/// Nobody waits longer for a decision.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3_600);

#[derive(Clone)]
enum Source {
    Url(String),
    Client(Box<Client>),
}

/// A store that cannot be built as it was described. It quotes nothing that may hold a password.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text has no scheme.
    #[error("a URL of Redis starts with a scheme, such as redis://")]
    NoScheme,
    /// The scheme is none of Redis.
    #[error(
        "the scheme is none of redis, rediss, redis+unix, unix, redis-cluster, rediss-cluster, redis-sentinel, rediss-sentinel"
    )]
    UnknownScheme,
    /// A URL of Sentinel does not say which service.
    #[error("a URL of Sentinel names its service behind a slash: redis-sentinel://host:26379/service")]
    NoService,
    /// TLS is asked for, and the feature is off.
    #[error("TLS needs the cargo feature \"tls\"")]
    NoTls,
    /// A certificate cannot be used.
    #[error("the root certificate is none in PEM form")]
    Certificate,
    /// No call could ever be sent.
    #[error("0 calls in flight are below the least, 1")]
    NoneInFlight,
    /// The driver refuses it.
    #[error("the driver refuses the URL: {0}")]
    Driver(&'static str),
}

impl ConfigError {
    /// The driver's error without its detail, which may quote the URL.
    pub(crate) fn driver(error: RedisError) -> Self {
        Self::Driver(match error.kind() {
            redis::ErrorKind::InvalidClientConfig => "it is no valid address or setting",
            redis::ErrorKind::Io => "its host or file is not usable",
            _ => "it is not understood",
        })
    }
}

/// Whom TLS trusts, and who it says it is.
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "used with the feature"))]
    root: Option<Vec<u8>>,
}

impl Certificates {
    #[cfg(feature = "tls")]
    fn check(&self) -> Result<(), ConfigError> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;

        let Some(root) = &self.root else { return Ok(()) };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(root).collect();
        if certificates.is_ok_and(|certificates| !certificates.is_empty()) {
            Ok(())
        } else {
            Err(ConfigError::Certificate)
        }
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "used with the feature")]
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    #[cfg(feature = "tls")]
    pub(crate) fn for_driver(&self) -> redis::TlsCertificates {
        redis::TlsCertificates { client_tls: None, root_cert: self.root.clone() }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn client(&self, info: ConnectionInfo) -> Result<Client, RedisError> {
        if !matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
            return Client::open(info);
        }
        Client::build_with_tls(info, self.for_driver())
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "used with the feature")]
    pub(crate) fn client(&self, info: ConnectionInfo) -> Result<Client, RedisError> {
        Client::open(info)
    }
}

/// The driver panics where several providers are compiled in, and neither the application nor anyone else has chosen.
#[cfg(feature = "tls")]
fn choose_cryptography() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _chosen_meanwhile = rustls::crypto::ring::default_provider().install_default();
    }
}

impl RedisBuilder {
    pub(crate) fn url(url: impl Into<String>) -> Self {
        Self::of(Source::Url(url.into()))
    }

    pub(crate) fn client(client: Client) -> Self {
        Self::of(Source::Client(Box::new(client)))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            certificates: Certificates::default(),
            timeout: Duration::from_millis(250),
            connect_timeout: Duration::from_secs(1),
            grace: Duration::from_secs(1),
            virtual_expiry: Duration::from_secs(3_600),
            max_in_flight: 1_024,
            allow_eviction: false,
        }
    }

    /// How long a reply may take, at most an hour; 250 ms by default. A caller's own deadline may be shorter.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long connecting may take, name resolution and TLS included; 1 s by default. Callers wait for it no longer
    /// than for a reply.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// For how long Redis keeps a state once it is as if never used, so that expiry changes no answer; 1 s by
    /// default. A bucket's is kept up to a second longer.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// For how long, at least, Redis keeps the state of a request that carried its own instant; an hour by default.
    /// For tests in virtual time: a key that is asked about at the server's time as well may be forgotten too early.
    pub const fn virtual_expiry(mut self, expiry: Duration) -> Self {
        self.virtual_expiry = expiry;
        self
    }

    /// The most calls under way at once to one server, at least one; 1,024 by default. One more is refused at once.
    pub const fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// Accepts a server that evicts keys when its memory is full, and so can forget a limit that is used up; without,
    /// [`ready`](limiter_core::Backend::ready) reports one.
    pub const fn allow_eviction(mut self) -> Self {
        self.allow_eviction = true;
        self
    }

    /// The certificate authority that TLS trusts instead of the system's, as PEM.
    #[cfg(feature = "tls")]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.root = Some(pem.into());
        self
    }

    /// The store. Connects to nothing yet, so that it succeeds while the server is down. Where it speaks TLS and the
    /// process has no provider of cryptography yet, it installs that of `ring`.
    ///
    /// # Errors
    /// A URL that is not understood, names no service of its sentinels, or needs the feature `tls`; a certificate that is
    /// none; no calls in flight.
    pub fn build(self) -> Result<Redis, ConfigError> {
        if self.max_in_flight == 0 {
            return Err(ConfigError::NoneInFlight);
        }
        self.certificates.check()?;
        let target = match self.source {
            Source::Url(url) => Target::parse(&url, &self.certificates)?,
            Source::Client(client) => Target::of_client(&client)?,
        };
        #[cfg(feature = "tls")]
        if target.speaks_tls() {
            choose_cryptography();
        }
        let (connect_timeout, most) =
            (self.connect_timeout.min(LONGEST_TIMEOUT), self.max_in_flight.min(Semaphore::MAX_PERMITS));
        let route = match target {
            Target::Node(client) => Route::One(Server::new(Link::new(client, connect_timeout), most)),
            Target::Sentinel(sentinel) => Route::One(Server::new(Link::new(sentinel, connect_timeout), most)),
            Target::Cluster(seeds) => Route::Cluster(Cluster::new(seeds, connect_timeout, most)),
        };
        let keep = Keep { grace: self.grace, virtual_expiry: self.virtual_expiry };
        let timeout = self.timeout.min(LONGEST_TIMEOUT);
        Ok(Redis { trips: Arc::new(Trips::new(route, keep, timeout, self.allow_eviction, most)) })
    }
}

impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}
