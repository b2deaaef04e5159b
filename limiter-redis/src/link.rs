//! One multiplexed connection to one server, made when first needed and again when lost.

use crate::error::{self, unsent};
use async_trait::async_trait;
use limiter_core::{BackendError, ErrorKind};
use parking_lot::Mutex;
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// Where a connection comes from: an address, or whichever server Sentinel names.
#[async_trait]
pub(crate) trait Dial: fmt::Debug + Send + Sync + 'static {
    async fn dial(&self) -> Result<MultiplexedConnection, RedisError>;
}

/// A connection and which one it is: whoever finds it broken reports that one, and not its successor.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) multiplexed: MultiplexedConnection,
    pub(crate) number: Number,
}

/// Which connection of a link it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number(u64);

/// A lazily made connection, shared by all callers.
///
/// Connecting runs in a task of its own, which no caller's deadline cancels. After a failure, and after a connection that
/// did not prove itself, the next attempt waits, twice as long each time and jittered; until then callers are told at
/// once. Where a connection that proved itself is lost, the next caller makes another.
#[derive(Clone)]
pub(crate) struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    dial: Box<dyn Dial>,
    connect_timeout: Duration,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// How many connections there have been.
    made: u64,
    /// When the last of them was made.
    made_at: Instant,
    /// Whether it ever answered.
    has_answered: bool,
    /// Replies in a row that did not come in time on it, and when the first of them was missed.
    late: Option<(u32, Instant)>,
    /// The wait before the last attempt; zero where none was due.
    pause: Duration,
}

enum Phase {
    /// None; and not to be tried before that instant, for that reason.
    Down(Option<(Instant, BackendError)>),
    /// An attempt is under way; its task tells what came of it.
    Connecting(watch::Receiver<Attempt>),
    Up(MultiplexedConnection),
}

/// What came of an attempt; `None` as long as nothing has.
type Attempt = Option<Result<Connection, BackendError>>;

/// After so many late replies in a row, a connection is taken to lead nowhere, if for [`SILENCE`] all were late.
const LATE_IN_A_ROW: u32 = 3;

/// A server that many wait for may hold up all of them for a moment.
const SILENCE: Duration = Duration::from_millis(200);

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl Link {
    pub(crate) fn new(dial: impl Dial, connect_timeout: Duration) -> Self {
        let state = State {
            phase: Phase::Down(None),
            made: 0,
            made_at: Instant::now(),
            has_answered: false,
            late: None,
            pause: Duration::ZERO,
        };
        Self { shared: Arc::new(Shared { dial: Box::new(dial), connect_timeout, state: Mutex::new(state) }) }
    }

    /// The connection, waiting for it until then.
    pub(crate) async fn connection(
        &self,
        operation: &'static str,
        until: Instant,
    ) -> Result<Connection, BackendError> {
        let mut attempt = match self.at_once(operation)? {
            Ok(connection) => return Ok(connection),
            Err(attempt) => attempt,
        };
        let late = || unsent(ErrorKind::Timeout, operation, "no connection in time");
        match timeout_at(until, attempt.wait_for(Option::is_some)).await {
            Err(_elapsed) => Err(late()),
            Ok(Ok(made)) => made.clone().unwrap_or_else(|| Err(late())),
            Ok(Err(_lost)) => {
                Err(unsent(ErrorKind::Unavailable, operation, "connecting ended with its runtime"))
            }
        }
    }

    /// The connection, or the attempt to wait for, begun where none was.
    fn at_once(
        &self,
        operation: &'static str,
    ) -> Result<Result<Connection, watch::Receiver<Attempt>>, BackendError> {
        let mut state = self.shared.state.lock();
        match &state.phase {
            Phase::Up(multiplexed) => {
                return Ok(Ok(Connection { multiplexed: multiplexed.clone(), number: Number(state.made) }));
            }
            // A sender that is gone went with its runtime.
            Phase::Connecting(attempt) if attempt.has_changed().is_ok() => return Ok(Err(attempt.clone())),
            Phase::Down(Some((until, error))) if Instant::now() < *until => return Err(error.clone()),
            Phase::Connecting(_) | Phase::Down(_) => {}
        }
        let runtime = error::runtime(operation)?;
        let (tell, attempt) = watch::channel(None);
        state.phase = Phase::Connecting(attempt.clone());
        let link = self.clone();
        runtime.spawn(async move {
            let made = link.connect().await;
            let _nobody_waits = tell.send(Some(made));
        });
        Ok(Err(attempt))
    }

    async fn connect(&self) -> Result<Connection, BackendError> {
        let dialled = timeout(self.shared.connect_timeout, self.shared.dial.dial()).await;
        let mut state = self.shared.state.lock();
        let error = match dialled {
            Ok(Ok(multiplexed)) => {
                state.phase = Phase::Up(multiplexed.clone());
                (state.made, state.made_at) = (state.made + 1, Instant::now());
                (state.has_answered, state.late) = (false, None);
                return Ok(Connection { multiplexed, number: Number(state.made) });
            }
            Ok(Err(error)) => error::unconnected(error),
            Err(_elapsed) => unsent(ErrorKind::Timeout, "connect", "no connection in time"),
        };
        state.wait(error.clone());
        Err(error)
    }

    /// The server did what it was asked.
    pub(crate) fn answered(&self, connection: Number) {
        let mut state = self.shared.state.lock();
        if state.is_up(connection) {
            (state.has_answered, state.late) = (true, None);
        }
    }

    /// The server refused.
    pub(crate) fn refused(&self, connection: Number) {
        let mut state = self.shared.state.lock();
        if state.is_up(connection) {
            state.late = None;
        }
    }

    /// A reply did not come in time.
    pub(crate) fn late(&self, connection: Number) {
        let mut state = self.shared.state.lock();
        if !state.is_up(connection) {
            return;
        }
        let now = Instant::now();
        let (before, since) = state.late.unwrap_or((0, now));
        state.late = Some((before + 1, since));
        if before + 1 >= LATE_IN_A_ROW && now - since >= SILENCE {
            state.give_up(unsent(ErrorKind::Timeout, "connect", "the last connection led nowhere"));
        }
    }

    /// The connection is of no more use.
    pub(crate) fn lost(&self, connection: Number, error: RedisError) {
        let mut state = self.shared.state.lock();
        if state.is_up(connection) {
            state.give_up(error::unconnected(error));
        }
    }
}

impl State {
    /// Whether this connection is in use: calls that were under way on one that was left say nothing about the next.
    fn is_up(&self, connection: Number) -> bool {
        self.made == connection.0 && matches!(self.phase, Phase::Up(_))
    }

    /// Leaves the connection. One that answered, and for as long as the longest pause, has proved itself: what was wrong
    /// before is over, and the next caller makes another at once. Any other was as good as none.
    fn give_up(&mut self, error: BackendError) {
        if self.has_answered && self.made_at.elapsed() >= LONGEST_PAUSE {
            (self.phase, self.pause) = (Phase::Down(None), Duration::ZERO);
        } else {
            self.wait(error);
        }
    }

    fn wait(&mut self, error: BackendError) {
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        let jittered = self.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.phase = Phase::Down(Some((Instant::now() + jittered, error)));
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.shared.dial).finish()
    }
}
