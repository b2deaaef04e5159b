use crate::backend::{Inner, Postgres};
use crate::pool::Pool;
use crate::schema::Schema;
use crate::server::Server;
use crate::target;
use limiter_core::Quota;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::Semaphore;

/// A [`Postgres`] in the making. Nothing is connected before the first request.
///
/// | URL | the server |
/// |---|---|
/// | `postgres://user:password@host:5432/database` | one server |
/// | `postgres://user@%2Frun%2Fpostgresql/database` | one server, by the folder of its Unix socket |
/// | `postgres://user@a,b/database?target_session_attrs=read-write` | whichever of several is the primary |
/// | `postgres://..?sslmode=require` | through TLS, verified (feature `tls`); `verify-full` says the same |
///
/// Without `sslmode=require` nothing is encrypted: a mode that falls back to plain text would promise what an attacker
/// can take back.
///
/// # Example
/// ```
/// use limiter_core::RateLimiter;
/// use limiter_postgres::{Durability, Postgres};
/// use std::time::Duration;
///
/// let postgres = Postgres::builder("postgres://limiter@db.internal/shop")
///     .schema("limits")
///     .durability(Durability::Unlogged)
///     .connections(4)
///     .build()?;
/// let limiter = RateLimiter::new(100, Duration::from_secs(60), postgres)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct PostgresBuilder {
    source: Source,
    certificates: Certificates,
    schema: String,
    table: String,
    durability: Durability,
    timeout: Duration,
    connect_timeout: Duration,
    grace: Duration,
    virtual_expiry: Duration,
    connections: usize,
    prepared: bool,
}

/// Nobody waits longer for a decision.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3_600);

#[derive(Clone)]
enum Source {
    Url(String),
    Pool(deadpool_postgres::Pool),
}

/// What a crash of the server may take back. What it takes back admits at most one window or burst more per key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Unlogged tables: a crash forgets every limit, and a standby has none. The fastest.
    Unlogged,
    /// Logged tables, and commits that do not wait for the disk: a crash forgets the decisions of the last moments, less
    /// than a second by default (three times `wal_writer_delay`).
    #[default]
    Asynchronous,
    /// Logged tables, and commits that do: what was answered is not forgotten. Each trip waits for the disk.
    Full,
}

impl Durability {
    pub(crate) const fn persistence(self) -> char {
        match self {
            Self::Unlogged => 'u',
            Self::Asynchronous | Self::Full => 'p',
        }
    }

    /// The transactions' `synchronous_commit`.
    pub(crate) const fn synchronous_commit(self) -> &'static str {
        match self {
            Self::Unlogged | Self::Asynchronous => "off",
            Self::Full => "on",
        }
    }
}

/// A store that cannot be built as it was described. It quotes nothing that may hold a password.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is no URL of PostgreSQL.
    #[error("a URL of PostgreSQL starts with postgres:// or postgresql://")]
    Scheme,
    /// The URL is not understood.
    #[error("the driver does not understand the URL: an address, a port or a setting is not as it should be")]
    Url,
    /// TLS is asked for, and the feature is off.
    #[error("TLS needs the cargo feature \"tls\"")]
    NoTls,
    /// The certificates that TLS is to trust cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Certificate(String),
    /// A name that PostgreSQL cannot have.
    #[error("{what} name {name:?} is empty, has a NUL, or is longer than {max} bytes")]
    Name {
        /// Schema or table.
        what: &'static str,
        /// The name.
        name: String,
        /// The most bytes that it can have.
        max: usize,
    },
    /// A pool without connections.
    #[error("0 connections are below the least, 1")]
    NoConnections,
}

/// Whom TLS trusts.
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    pub(crate) root: Option<Vec<u8>>,
}

impl Certificates {
    pub(crate) fn are_given(&self) -> bool {
        self.root.is_some()
    }
}

impl PostgresBuilder {
    pub(crate) fn url(url: impl Into<String>) -> Self {
        Self::of(Source::Url(url.into()))
    }

    pub(crate) fn pool(pool: deadpool_postgres::Pool) -> Self {
        Self::of(Source::Pool(pool))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            certificates: Certificates::default(),
            schema: "public".to_owned(),
            table: "rate_limits".to_owned(),
            durability: Durability::default(),
            timeout: Duration::from_millis(250),
            connect_timeout: Duration::from_secs(1),
            grace: Duration::from_secs(1),
            virtual_expiry: Duration::from_secs(3_600),
            connections: 8,
            prepared: true,
        }
    }

    /// The schema of tables and functions; `public` by default. Any name: it is quoted.
    pub fn schema(self, schema: impl Into<String>) -> Self {
        Self { schema: schema.into(), ..self }
    }

    /// The table, whose name those of the functions begin with; `rate_limits` by default. Any name: it is quoted.
    pub fn table(self, table: impl Into<String>) -> Self {
        Self { table: table.into(), ..self }
    }

    /// What a crash of the server may take back; [`Durability::Asynchronous`] by default.
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long a reply may take, at most an hour; 250 ms by default. A caller's own deadline may be shorter: the server ends what it
    /// has begun before either.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long connecting may take, name resolution, TLS and login included; 1 s by default. Callers wait for it no
    /// longer than for a reply.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// For how long a state is kept once it is as if never used, so that a sweep changes no answer; 1 s by default.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// For how long, at least, the state of a request is kept that carried its own instant; an hour by default. For
    /// tests in virtual time.
    pub const fn virtual_expiry(mut self, expiry: Duration) -> Self {
        self.virtual_expiry = expiry;
        self
    }

    /// The most connections at once; 8 by default, of which batches need one or two. Not for a pool that is ready.
    pub const fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Whether a connection is one session of the server for good; by default it is. Then statements are prepared once per
    /// connection, and the session keeps the timeouts of its last decision. Turn it off behind any pooler that hands a
    /// connection's transactions to different sessions, of any version, such as pgbouncer in transaction mode: one that
    /// knows prepared statements (pgbouncer from 1.21) would still leave the timeouts to other clients' transactions.
    pub const fn prepared(mut self, prepared: bool) -> Self {
        self.prepared = prepared;
        self
    }

    /// The certificate authority that TLS trusts instead of the system's, as PEM. Asks for TLS.
    #[cfg(feature = "tls")]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.root = Some(pem.into());
        self
    }

    /// The store. Connects to nothing yet, so that it succeeds while the server is down.
    ///
    /// # Errors
    /// A URL that is not understood or needs the feature `tls`, a name that PostgreSQL cannot have, a certificate
    /// that cannot be used, or no connections.
    pub fn build(self) -> Result<Postgres, ConfigError> {
        if self.connections == 0 {
            return Err(ConfigError::NoConnections);
        }
        let (timeout, connect_timeout) =
            (self.timeout.min(LONGEST_TIMEOUT), self.connect_timeout.min(LONGEST_TIMEOUT));
        let schema = Schema::new(&self.schema, &self.table, self.durability)?;
        let pool = match self.source {
            Source::Url(url) => {
                let manager = target::manager(&url, &self.certificates, connect_timeout)?;
                Pool::own(manager, self.prepared, self.connections, connect_timeout)
                    .map_err(|_no_runtime| ConfigError::NoConnections)?
            }
            Source::Pool(pool) => Pool::ready(pool, connect_timeout),
        };
        let server = Server {
            waiting: Semaphore::new((pool.capacity() / 2).max(1)),
            pool: Arc::new(pool),
            prepared: self.prepared,
            timeout,
            synchronous_commit: self.durability.synchronous_commit(),
        };
        Ok(Postgres {
            inner: Arc::new(Inner {
                server,
                schema,
                durability: self.durability,
                grace: micros(self.grace),
                horizon: micros(self.virtual_expiry),
                corrupt: AtomicU64::new(0),
            }),
        })
    }
}

/// Beyond the longest window there is nothing to keep.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.min(Quota::MAX_WINDOW).as_micros()).unwrap_or(0)
}

impl fmt::Debug for PostgresBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBuilder")
            .field("schema", &self.schema)
            .field("table", &self.table)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}
