//! The server: statements that end by themselves before their callers give up, never sent again unless proved not applied.

use crate::error::{Class, classify, failed, timed_out, unsent};
use crate::finish::Finish;
use crate::keys::{Key, Keys};
use crate::pool::{Around, Connection, Pool};
use futures_util::future::join3;
use limiter_core::{BackendError, Effect, ErrorKind, Request};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};

/// The pool, and how it is talked to.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) pool: Arc<Pool>,
    /// Whether statements are prepared, once per connection.
    pub(crate) prepared: bool,
    pub(crate) timeout: Duration,
    pub(crate) synchronous_commit: &'static str,
    /// Turns of those who wait for rows that are held: half of the connections are left to others.
    pub(crate) waiting: Semaphore,
}

/// What holds for a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) synchronous_commit: &'static str,
}

/// When to give up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// When the first caller does: the statement ends before.
    first: Instant,
    /// When the last does: a connection is of use until then.
    pub(crate) last: Instant,
    /// When nobody waits any more, whatever the deadlines.
    give_up: Instant,
}

impl Patience {
    pub(crate) fn until(give_up: Instant) -> Self {
        Self { first: give_up, last: give_up, give_up }
    }

    /// That of these requests' callers.
    pub(crate) fn of_all(self, requests: &[&Request]) -> Self {
        let ends = requests.iter().map(|request| self.of(request));
        let (first, last) = (ends.clone().min(), ends.max());
        Self { first: first.unwrap_or(self.give_up), last: last.unwrap_or(self.give_up), ..self }
    }

    /// When a request's caller gives up.
    pub(crate) fn of(self, request: &Request) -> Instant {
        request.deadline().map_or(self.give_up, |deadline| deadline.min(self.give_up))
    }
}

/// What the server is given of the time that is left: the statement ends before its caller gives up, and waits for locks
/// that long at most that there is time left to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) statement: u64,
    pub(crate) lock: u64,
}

impl Limits {
    /// Of what is left an eighth is for the way back. Rounded down to half a power of two, so that a connection need not
    /// be told of every trip's own.
    fn within(left: Duration, may_go_again: bool) -> Self {
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(1 << 30);
        let most = (left - left / 8).max(1);
        let power = 1 << most.ilog2();
        let statement = if power >= 2 && power + power / 2 <= most { power + power / 2 } else { power };
        let lock = if may_go_again { statement / 3 } else { statement - statement / 4 };
        Self { statement, lock: lock.max(1) }
    }
}

/// A statement with its arguments.
pub(crate) struct Call {
    pub(crate) operation: &'static str,
    pub(crate) text: Arc<str>,
    pub(crate) arguments: Vec<Argument>,
    /// Whether a failure by a lock that was not had in time is followed by another attempt.
    pub(crate) may_go_again: bool,
}

/// An argument.
#[derive(Debug)]
pub(crate) enum Argument {
    Int(i32),
    BigInt(i64),
    BigInts(Vec<i64>),
    Key(Key),
    Keys(Keys),
}

impl Argument {
    fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Int(number) => (number, Type::INT4),
            Self::BigInt(number) => (number, Type::INT8),
            Self::BigInts(numbers) => (numbers, Type::INT8_ARRAY),
            Self::Key(key) => (key, Type::BYTEA),
            Self::Keys(keys) => (keys, Type::BYTEA_ARRAY),
        }
    }
}

/// Why a statement gave no answer.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) error: BackendError,
    /// Whether the same statement may succeed at once.
    pub(crate) is_passing: bool,
    /// For how long the server had it.
    pub(crate) spent: Duration,
}

impl Failure {
    fn of(operation: &'static str, class: Class, error: &Error) -> Self {
        let error = failed(operation, class, error);
        Self { is_passing: class.is_passing, ..error.into() }
    }

    /// Whether it is but for a want of time, and has done nothing.
    pub(crate) fn is_late(&self) -> bool {
        self.error.kind() == ErrorKind::Timeout && self.error.effect() == Effect::NotApplied
    }
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        Self { error, is_passing: false, spent: Duration::ZERO }
    }
}

impl Server {
    /// Patience that begins now.
    pub(crate) fn patience(&self) -> Patience {
        Patience::until(Instant::now() + self.timeout)
    }

    /// The first row that a statement answers.
    pub(crate) async fn row(&self, call: Call, patience: Patience) -> Result<Row, Failure> {
        let operation = call.operation;
        let rows = self.rows(call, patience).await?;
        let none = || {
            BackendError::new(ErrorKind::Unexpected, Effect::Unknown, crate::error::NAME, operation, "no row")
        };
        Ok(rows.into_iter().next().ok_or_else(none)?)
    }

    /// Sends a statement, and finishes the exchange also where the caller goes away.
    pub(crate) async fn rows(&self, call: Call, patience: Patience) -> Result<Vec<Row>, Failure> {
        let connection = self.pool.connection(call.operation, patience.last).await?;
        let sent = Instant::now();
        let left = patience.first.saturating_duration_since(sent);
        if left.is_zero() {
            let message = "the deadline passed before it was sent";
            return Err(unsent(ErrorKind::Timeout, call.operation, message).into());
        }
        let limits = Limits::within(left, call.may_go_again);
        let (prepared, give_up) = (self.prepared, patience.give_up);
        let settings = Settings { limits, synchronous_commit: self.synchronous_commit };
        let answer = Finish::new(exchange(connection, call, settings, prepared, give_up)).await;
        answer.map_err(|failure| Failure { spent: sent.elapsed(), ..failure })
    }

    /// Runs statements that answer nothing.
    pub(crate) async fn execute(
        &self,
        operation: &'static str,
        script: &str,
        within: Duration,
    ) -> Result<(), BackendError> {
        let give_up = Instant::now() + within;
        let connection = self.pool.connection(operation, give_up).await?;
        let script = script.to_owned();
        let run = async move {
            let done = timeout_at(give_up, connection.batch_execute(&script)).await;
            match done {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => {
                    // Where a script breaks off, its transaction stays open.
                    connection.discard();
                    Err(failed(operation, classify(&error), &error))
                }
                Err(_elapsed) => {
                    connection.discard();
                    Err(timed_out(operation))
                }
            }
        };
        Finish::new(run).await
    }
}

async fn exchange(
    connection: Connection,
    call: Call,
    settings: Settings,
    prepared: bool,
    give_up: Instant,
) -> Result<Vec<Row>, Failure> {
    let (values, types): (Vec<_>, Vec<_>) = call.arguments.iter().map(Argument::typed).unzip();
    let statement = if prepared {
        match timeout_at(give_up, connection.prepare_typed_cached(&call.text, &types)).await {
            Ok(Ok(statement)) => Some(statement),
            Ok(Err(error)) => {
                let class = Class { effect: Effect::NotApplied, ..classify(&error) };
                if class.is_lost {
                    connection.discard();
                }
                return Err(Failure::of(call.operation, class, &error));
            }
            Err(_elapsed) => {
                connection.discard();
                let message = "the statement was not prepared in time";
                return Err(unsent(ErrorKind::Timeout, call.operation, message).into());
            }
        }
    } else {
        None
    };
    let query = async {
        match &statement {
            Some(statement) => connection.query(statement, &values).await,
            None => {
                let typed: Vec<_> = values.iter().copied().zip(types.iter().cloned()).collect();
                connection.query_typed(&call.text, &typed).await
            }
        }
    };
    let around = connection.with(&settings);
    let Ok(sent) = timeout_at(give_up, send(&connection, around, query)).await else {
        // The server should have ended it by itself.
        connection.discard();
        return Err(timed_out(call.operation).into());
    };
    let answer = sent.answer.map_err(|error| {
        let class = classify(&error);
        (class, Failure::of(call.operation, class, &error))
    });
    match &answer {
        Err((class, failure)) if class.is_refusal => connection.refused(&failure.error),
        Err((class, _)) if class.is_lost => connection.discard(),
        _ if sent.is_astray => connection.discard(),
        Ok(_) => connection.answered(),
        Err(_) => {}
    }
    answer.map_err(|(_, failure)| failure)
}

/// What came back of a statement and what was around it.
struct Sent {
    answer: Result<Vec<Row>, Error>,
    /// What was around it failed: the session is not as it is taken to be.
    is_astray: bool,
}

/// Sends all at once. The answer is the statement's own, which runs also behind a setting that failed; an error of its
/// commit is its error.
async fn send(
    connection: &Connection,
    around: Around,
    query: impl Future<Output = Result<Vec<Row>, Error>>,
) -> Sent {
    let before = async {
        match &around {
            Around::Nothing => Ok(()),
            Around::Session(settings) | Around::Transaction(settings) => {
                connection.batch_execute(settings).await
            }
        }
    };
    let after = async {
        match &around {
            Around::Nothing | Around::Session(_) => Ok(()),
            Around::Transaction(_) => connection.batch_execute("COMMIT").await,
        }
    };
    let (before, rows, after) = join3(before, query, after).await;
    let is_astray = before.is_err() || after.is_err();
    let answer = match (before, rows, after) {
        // A transaction that had failed before the statement.
        (Err(before), Err(error), _) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
            Err(before)
        }
        // One that has begun, and did not commit. Where it has not, the statement has committed by itself.
        (Ok(()), Ok(_), Err(after)) => Err(after),
        (_, rows, _) => rows,
    };
    Sent { answer, is_astray }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_before_its_caller_gives_up() {
        for left in 0..5_000 {
            let limits = Limits::within(Duration::from_millis(left), true);
            assert!(limits.statement <= (left - left / 8).max(1), "{limits:?} of {left} ms");
            assert!(3 * limits.statement > 2 * (left - left / 8).min(1) && limits.lock >= 1);
            assert!(left < 4 || 2 * limits.lock < left, "no time to go again: {limits:?} of {left} ms");
        }
        let of = |left| Limits::within(Duration::from_millis(left), false).statement;
        assert_eq!([of(50), of(49), of(45), of(250)], [32, 32, 32, 192]);
    }
}
