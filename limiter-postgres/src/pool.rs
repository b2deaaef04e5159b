//! Connections: a bounded number of them, made when first needed and again when lost.

use crate::error::{unconnected, unsent};
use crate::finish::Finish;
use crate::server::{Limits, Settings};
use deadpool::managed::{self, Metrics, Object, PoolError, RecycleResult, TimeoutType, Timeouts};
use deadpool::{Runtime, Status};
use deadpool_postgres::ClientWrapper;
use limiter_core::{BackendError, ErrorKind};
use parking_lot::Mutex;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

/// A pool, and when to try again after connecting failed.
///
/// Connecting goes on when its caller has given up. After a failure the next attempt waits, twice as long each time and
/// jittered, until a new connection has got an answer; meanwhile callers for whom none is idle are told at once. A server
/// that takes no writes fails like one that cannot be connected to.
pub(crate) struct Pool {
    source: Source,
    connect_timeout: Duration,
    failed: Mutex<Failed>,
}

enum Source {
    Own(managed::Pool<Manager>),
    /// One that the user brought.
    Ready(deadpool_postgres::Pool),
}

#[derive(Default)]
struct Failed {
    /// Not to be tried before that instant, for that reason.
    until: Option<(Instant, BackendError)>,
    pause: Duration,
    /// When it last failed. What began before is of the same failure.
    at: Option<Instant>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl Pool {
    /// A pool that connects as `manager` does; `keeps_sessions`: whether a connection is one server session for good.
    pub(crate) fn own(
        manager: deadpool_postgres::Manager,
        keeps_sessions: bool,
        size: usize,
        connect_timeout: Duration,
    ) -> Result<Self, managed::BuildError> {
        let manager = Manager { inner: manager, keeps_sessions };
        let pool = managed::Pool::builder(manager).max_size(size).runtime(Runtime::Tokio1).build()?;
        Ok(Self { source: Source::Own(pool), connect_timeout, failed: Mutex::default() })
    }

    pub(crate) fn ready(pool: deadpool_postgres::Pool, connect_timeout: Duration) -> Self {
        Self { source: Source::Ready(pool), connect_timeout, failed: Mutex::default() }
    }

    /// A connection that is no one else's, waiting for it until then.
    pub(crate) async fn connection(
        self: &Arc<Self>,
        operation: &'static str,
        until: Instant,
    ) -> Result<Connection, BackendError> {
        if let Some((again, error)) = &self.failed.lock().until
            && Instant::now() < *again
            && self.status().available == 0
        {
            return Err(error.clone());
        }
        if Handle::try_current().is_err() {
            return Err(unsent(ErrorKind::Config, operation, "a tokio runtime is needed, and there is none"));
        }
        let pool = Arc::clone(self);
        let wait = until.saturating_duration_since(Instant::now());
        let late = || unsent(ErrorKind::Timeout, operation, "no connection in time");
        timeout_at(until, Finish::new(async move { pool.get(wait).await }))
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    async fn get(self: Arc<Self>, wait: Duration) -> Result<Connection, BackendError> {
        let (connect, began) = (self.connect_timeout, Instant::now());
        let got = match &self.source {
            Source::Own(pool) => {
                let timeouts = Timeouts { wait: Some(wait), create: Some(connect), recycle: Some(connect) };
                pool.timeout_get(&timeouts).await.map(Client::Own)
            }
            Source::Ready(pool) => match timeout(wait + connect, pool.get()).await {
                Ok(got) => got.map(Client::Ready),
                Err(_elapsed) => Err(PoolError::Timeout(TimeoutType::Wait)),
            },
        };
        match got {
            Ok(client) => Ok(Connection { client, pool: self }),
            Err(error) => {
                let told = unconnected(&error);
                if matches!(error, PoolError::Backend(_) | PoolError::Timeout(TimeoutType::Create)) {
                    self.failed(began, &told);
                }
                Err(told)
            }
        }
    }

    /// The most connections at once.
    pub(crate) fn capacity(&self) -> usize {
        self.status().max_size
    }

    fn status(&self) -> Status {
        match &self.source {
            Source::Own(pool) => pool.status(),
            Source::Ready(pool) => pool.status(),
        }
    }

    /// An attempt or a connection that began then has failed for all.
    fn failed(&self, began: Instant, error: &BackendError) {
        let mut failed = self.failed.lock();
        if failed.at.is_some_and(|at| began < at) {
            return;
        }
        let now = Instant::now();
        failed.pause = (failed.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        let jittered = failed.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        failed.until = Some((now + jittered, error.clone()));
        failed.at = Some(now);
    }

    /// A connection that was made then has got an answer.
    fn answered(&self, made: Instant) {
        let mut failed = self.failed.lock();
        if failed.at.is_some_and(|at| made > at) {
            *failed = Failed::default();
        }
    }

    /// Lets the next caller connect, whatever failed before.
    pub(crate) fn ask_anew(&self) {
        self.failed.lock().until = None;
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("status", &self.status()).finish_non_exhaustive()
    }
}

pub(crate) struct Manager {
    inner: deadpool_postgres::Manager,
    keeps_sessions: bool,
}

/// A connection, and what is known of its session's settings.
pub(crate) struct Session {
    client: ClientWrapper,
    /// `None`: its next transaction may be on another session of the server.
    limits: Option<AtomicU64>,
}

impl managed::Manager for Manager {
    type Type = Session;
    type Error = tokio_postgres::Error;

    async fn create(&self) -> Result<Session, tokio_postgres::Error> {
        let client = managed::Manager::create(&self.inner).await?;
        Ok(Session { client, limits: self.keeps_sessions.then(AtomicU64::default) })
    }

    async fn recycle(
        &self,
        session: &mut Session,
        metrics: &Metrics,
    ) -> RecycleResult<tokio_postgres::Error> {
        self.inner.recycle(&mut session.client, metrics).await
    }

    fn detach(&self, session: &mut Session) {
        self.inner.detach(&mut session.client);
    }
}

/// A connection of the pool, and back to it when dropped.
pub(crate) struct Connection {
    client: Client,
    pool: Arc<Pool>,
}

enum Client {
    Own(Object<Manager>),
    Ready(deadpool_postgres::Object),
}

/// What goes before a statement and behind it, in the same trip, so that it ends by itself in time.
pub(crate) enum Around {
    /// The session has it already.
    Nothing,
    /// A setting of the session.
    Session(String),
    /// A transaction around the statement, with a setting of its own.
    Transaction(String),
}

impl Connection {
    /// What makes these settings hold for the statement that is sent next.
    pub(crate) fn with(&self, settings: &Settings) -> Around {
        let Settings { limits: Limits { statement, lock }, synchronous_commit } = *settings;
        let session = match &self.client {
            Client::Own(session) => session.limits.as_ref(),
            Client::Ready(_) => None,
        };
        let limits =
            |set: &str| format!("{set} statement_timeout = {statement}; {set} lock_timeout = {lock}");
        // Plans for the batch at hand would be made anew for each.
        let others = |set: &str| {
            format!(
                "{set} synchronous_commit = {synchronous_commit}; {set} plan_cache_mode = force_generic_plan"
            )
        };
        let new = statement << 32 | lock;
        match session.map(|known| known.swap(new, Ordering::Relaxed)) {
            Some(known) if known == new => Around::Nothing,
            Some(0) => Around::Session(format!(
                "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED; {}; {}",
                others("SET"),
                limits("SET")
            )),
            Some(_) => Around::Session(limits("SET")),
            None => Around::Transaction(format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED; {}; {}",
                others("SET LOCAL"),
                limits("SET LOCAL")
            )),
        }
    }

    fn made(&self) -> Instant {
        let metrics = match &self.client {
            Client::Own(session) => Object::metrics(session),
            Client::Ready(client) => deadpool_postgres::Object::metrics(client),
        };
        Instant::from_std(metrics.created)
    }

    /// Its server answers as it should.
    pub(crate) fn answered(&self) {
        self.pool.answered(self.made());
    }

    /// Closes it: its server can do nothing for anyone, for this reason.
    pub(crate) fn refused(self, error: &BackendError) {
        self.pool.failed(self.made(), error);
        self.discard();
    }

    /// Closes it, and makes room for another.
    pub(crate) fn discard(self) {
        match self.client {
            Client::Own(session) => drop(Object::take(session)),
            Client::Ready(client) => drop(deadpool_postgres::Object::take(client)),
        }
    }
}

impl Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        match &self.client {
            Client::Own(session) => &session.client,
            Client::Ready(client) => client,
        }
    }
}
