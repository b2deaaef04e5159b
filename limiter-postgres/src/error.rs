//! What went wrong, and whether the request may have been recorded: one table.

use deadpool::managed::{PoolError, TimeoutType};
use limiter_core::{BackendError, Effect, ErrorKind};
use std::error::Error as _;
use std::io;
use tokio_postgres::error::SqlState;

/// The store's name in errors and metrics.
pub(crate) const NAME: &str = "postgres";

/// What a failure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) kind: ErrorKind,
    pub(crate) effect: Effect,
    /// Whether the connection is of no more use: it is lost, or leads to the wrong server.
    pub(crate) is_lost: bool,
    /// Whether the server refuses everybody: it is lost, and another would be told the same.
    pub(crate) is_refusal: bool,
    /// Whether the same statement may succeed at once.
    pub(crate) is_passing: bool,
}

impl Class {
    const fn not_applied(kind: ErrorKind) -> Self {
        Self { kind, effect: Effect::NotApplied, is_lost: false, is_refusal: false, is_passing: false }
    }

    const fn losing_the_connection(self) -> Self {
        Self { is_lost: true, ..self }
    }

    const fn of_everybody(self) -> Self {
        Self { is_refusal: true, ..self.losing_the_connection() }
    }

    const fn passing(self) -> Self {
        Self { is_passing: true, ..self }
    }
}

const UNKNOWN: Class =
    Class { effect: Effect::Unknown, ..Class::not_applied(ErrorKind::Unavailable).losing_the_connection() };

/// The class of a driver's error, for a statement that was sent.
///
/// A statement that the server ends with an error has been rolled back: it is `NotApplied`. What is no answer, or an
/// end of the session that may have come behind the commit, is `Unknown`.
pub(crate) fn classify(error: &tokio_postgres::Error) -> Class {
    match error.code() {
        Some(code) => by_code(code),
        None if error.is_closed() => UNKNOWN,
        None if io_error(error).is_some() => UNKNOWN,
        None => Class { kind: ErrorKind::Unexpected, ..UNKNOWN },
    }
}

fn by_code(code: &SqlState) -> Class {
    match code.code() {
        // A serialization failure, a deadlock; a lock that was not had in time.
        "40001" | "40P01" | "55P03" => Class::not_applied(ErrorKind::Contention).passing(),
        // A statement that took too long, or was cancelled.
        "57014" => Class::not_applied(ErrorKind::Timeout),
        // The session was ended; it may have been behind the commit.
        "57P01" | "57P02" | "57P05" => UNKNOWN,
        // Starting up, shutting down, recovering.
        "57P03" => Class::not_applied(ErrorKind::Unavailable).losing_the_connection(),
        // A read-only server, a standby: whoever connects anew may find the one that took its place.
        "25006" => Class::not_applied(ErrorKind::Unavailable).of_everybody(),
        code => match &code[..code.len().min(2)] {
            "08" => UNKNOWN,
            "53" => Class::not_applied(ErrorKind::Unavailable),
            "28" | "3D" => Class::not_applied(ErrorKind::Config).losing_the_connection(),
            // A prepared statement that is not there: a pooler's server connection is another one's.
            "26" | "3F" | "42" | "0A" => Class::not_applied(ErrorKind::Config),
            "22" | "23" => Class::not_applied(ErrorKind::Corrupt),
            "58" | "XX" => Class { is_lost: true, ..Class::not_applied(ErrorKind::Unavailable) },
            _ => Class::not_applied(ErrorKind::Unexpected),
        },
    }
}

fn io_error(error: &tokio_postgres::Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref() {
            return Some(io);
        }
        source = cause.source();
    }
    None
}

/// A driver's error in words. Of the server's answer only its code and message: its detail may quote a row.
pub(crate) fn failed(operation: &'static str, class: Class, error: &tokio_postgres::Error) -> BackendError {
    let message = match (error.as_db_error(), io_error(error)) {
        (Some(answer), _) => format!("the server answered {}: {}", answer.code().code(), answer.message()),
        (None, Some(io)) => format!("the connection failed: {}", io.kind()),
        (None, None) if error.is_closed() => "the connection was closed".to_owned(),
        (None, None) => {
            "the driver could not go on: no TLS where it is asked for, no such setting".to_owned()
        }
    };
    let failed = BackendError::new(class.kind, class.effect, NAME, operation, message);
    match (error.code(), io_error(error)) {
        (Some(code), _) => failed.with_source(Code(code.clone())),
        (None, Some(io)) => failed.with_source(io::Error::from(io.kind())),
        (None, None) => failed,
    }
}

/// Why the server refused, as its own table of errors has it: the source of an error that it answered.
#[derive(Debug, thiserror::Error)]
#[error("SQLSTATE {}", .0.code())]
struct Code(SqlState);

/// Why the server refused, if it did.
pub(crate) fn code(error: &BackendError) -> Option<&SqlState> {
    error.source()?.downcast_ref().map(|Code(code)| code)
}

/// A connection that was not made: nothing was sent.
pub(crate) fn unconnected(error: &PoolError<tokio_postgres::Error>) -> BackendError {
    match error {
        PoolError::Backend(error) => {
            let class = Class { effect: Effect::NotApplied, ..classify(error) };
            // A handshake that fails by itself, as one with a wrong certificate does, will go on failing.
            let is_away = error.is_closed() || io_error(error).is_some_and(is_of_the_network);
            let kind = if error.code().is_some() || is_away { class.kind } else { ErrorKind::Config };
            failed("connect", Class { kind, ..class }, error)
        }
        PoolError::Timeout(TimeoutType::Wait) => {
            unsent(ErrorKind::Timeout, "connect", "no connection became free in time")
        }
        PoolError::Timeout(_) => unsent(ErrorKind::Timeout, "connect", "no connection in time"),
        PoolError::Closed => unsent(ErrorKind::Unavailable, "connect", "the pool is closed"),
        PoolError::NoRuntimeSpecified => {
            unsent(ErrorKind::Config, "connect", "the pool has no runtime, so that it cannot limit waits")
        }
        PoolError::PostCreateHook(_) => unsent(ErrorKind::Config, "connect", "the pool's own hook failed"),
    }
}

/// What the system says of a host that is away, and not a library of what it read there.
fn is_of_the_network(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
        || matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::TimedOut)
}

/// No answer in time, to what was sent.
pub(crate) fn timed_out(operation: &'static str) -> BackendError {
    BackendError::new(ErrorKind::Timeout, Effect::Unknown, NAME, operation, "no reply in time")
}

/// What never left this process.
pub(crate) fn unsent(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> BackendError {
    BackendError::new(kind, Effect::NotApplied, NAME, operation, message)
}

/// A reply that is not of the function's form.
pub(crate) fn malformed() -> BackendError {
    let message = "the reply is not of the function's form";
    BackendError::new(ErrorKind::Unexpected, Effect::Unknown, NAME, "decide", message)
}

/// A request that was forgotten.
pub(crate) fn unanswered() -> BackendError {
    BackendError::new(ErrorKind::Unexpected, Effect::Unknown, NAME, "decide", "no answer")
}

/// A request that no trip can carry.
pub(crate) fn too_many_checks(checks: usize, most: usize) -> BackendError {
    let message = format!("{checks} checks are above {most}, the most of one trip");
    unsent(ErrorKind::Config, "decide", message)
}
