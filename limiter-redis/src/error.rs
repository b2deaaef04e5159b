//! What went wrong, and whether the request may have been recorded: one table.

use crate::cluster::NOBODY_SAYS;
use limiter_core::{BackendError, Effect, ErrorKind};
use redis::{ErrorKind as Driver, RedisError, ServerErrorKind as Server};
use std::error::Error as _;
use std::io;
use tokio::runtime::Handle;

/// The store's name in errors and metrics.
pub(crate) const NAME: &str = "redis";

/// What an answer that is an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) kind: ErrorKind,
    pub(crate) effect: Effect,
    /// Whether the connection is of no more use: it is lost, or leads to the wrong server.
    pub(crate) is_lost: bool,
}

impl Class {
    const fn not_applied(kind: ErrorKind) -> Self {
        Self { kind, effect: Effect::NotApplied, is_lost: false }
    }

    const fn losing_the_connection(self) -> Self {
        Self { is_lost: true, ..self }
    }
}

/// The class of a driver's error, for a command that was sent.
///
/// The script reads and decides before it writes, and a server that refuses a command says so before the script's
/// first write: what is an answer is `NotApplied`. What is no answer is `Unknown`.
pub(crate) fn classify(error: &RedisError) -> Class {
    const UNAVAILABLE: Class = Class::not_applied(ErrorKind::Unavailable);
    const CONFIG: Class = Class::not_applied(ErrorKind::Config);
    const UNKNOWN: Class = Class { kind: ErrorKind::Unavailable, effect: Effect::Unknown, is_lost: true };
    match error.kind() {
        Driver::Server(Server::BusyLoading | Server::ClusterDown) => UNAVAILABLE,
        // The server is well, and keys are on their way.
        Driver::Server(Server::TryAgain) => Class::not_applied(ErrorKind::Contention),
        Driver::Server(Server::NoScript | Server::Moved | Server::Ask) => UNAVAILABLE,
        // A primary that was demoted: whoever connects anew finds the one that took its place.
        Driver::Server(Server::ReadOnly | Server::MasterDown) => UNAVAILABLE.losing_the_connection(),
        Driver::Server(Server::NoPerm | Server::CrossSlot) => CONFIG,
        Driver::AuthenticationFailed | Driver::RESP3NotSupported | Driver::InvalidClientConfig => {
            CONFIG.losing_the_connection()
        }
        Driver::MasterNameNotFoundBySentinel => UNAVAILABLE,
        Driver::Io if error.is_connection_refusal() => UNAVAILABLE.losing_the_connection(),
        Driver::Io if error.is_timeout() => Class { kind: ErrorKind::Timeout, ..UNKNOWN },
        // A reply that was cut, or is none.
        Driver::Io | Driver::Parse => UNKNOWN,
        _ => by_code(error),
    }
}

/// What a user has to be allowed, as `ACL SETUSER` takes it.
const COMMANDS: &str = "+@connection +eval +evalsha +append +getrange +mget +pexpire +set +time +unlink, in a cluster +pttl \
                        and +cluster|slots too";

/// What a server that is of no cluster says when it is asked for one.
const NO_CLUSTER: &str = "This instance has cluster support disabled";

/// Codes that the driver has no name for.
fn by_code(error: &RedisError) -> Class {
    let detail = error.detail().unwrap_or_default();
    match error.code() {
        Some("BUSY" | "OOM" | "MISCONF" | "NOREPLICAS") => Class::not_applied(ErrorKind::Unavailable),
        Some("NOAUTH" | "WRONGPASS") => Class::not_applied(ErrorKind::Config).losing_the_connection(),
        Some("ERR") if detail.starts_with("max number of clients") => {
            Class::not_applied(ErrorKind::Unavailable).losing_the_connection()
        }
        // Some of what the script writes may have been written before.
        Some("ERR") if detail.starts_with("The user executing the script can't run") => {
            Class { kind: ErrorKind::Config, effect: Effect::Unknown, is_lost: false }
        }
        Some("ERR") if detail.starts_with(NO_CLUSTER) => Class::not_applied(ErrorKind::Config),
        Some("ERR") if detail.starts_with("unknown command") => Class::not_applied(ErrorKind::Config),
        _ => Class { kind: ErrorKind::Unexpected, effect: Effect::Unknown, is_lost: false },
    }
}

fn io_error(error: &RedisError) -> Option<&io::Error> {
    error.source()?.downcast_ref()
}

/// A driver's error in one word.
pub(crate) fn failed(operation: &'static str, class: Class, error: RedisError) -> BackendError {
    let message = match error.code() {
        Some("ERR") if error.detail().is_some_and(|detail| detail.starts_with(NO_CLUSTER)) => {
            "the server is of no cluster".to_owned()
        }
        Some("ERR") if class.kind == ErrorKind::Config => {
            format!("the server refuses a command that the scripts need: {COMMANDS}")
        }
        Some("NOPERM") => format!("the server answered NOPERM: the store needs its keys and {COMMANDS}"),
        Some(code) => format!("the server answered {code}"),
        None => match io_error(&error) {
            Some(io) => format!("the connection failed: {}", io.kind()),
            None => error.category().to_owned(),
        },
    };
    let failed = BackendError::new(class.kind, class.effect, NAME, operation, message);
    // What a server says of a command that it does not understand quotes it, keys and all.
    let quotes =
        error.code() == Some("ERR") && error.detail().is_none_or(|detail| detail.contains("with args"));
    if quotes { failed } else { failed.with_source(error) }
}

/// A connection that was not made: nothing was sent.
pub(crate) fn unconnected(error: RedisError) -> BackendError {
    let class = Class { effect: Effect::NotApplied, ..classify(&error) };
    failed("connect", class, error)
}

/// Why a server did not say who has which slot of a cluster: the request that waits for it was not sent.
pub(crate) fn unlearnt(error: BackendError) -> BackendError {
    match error.effect() {
        Effect::NotApplied => error,
        Effect::Unknown => unsent(error.kind(), "learn", NOBODY_SAYS).with_source(error),
    }
}

/// No answer in time, to what was sent.
pub(crate) fn timed_out(operation: &'static str) -> BackendError {
    BackendError::new(ErrorKind::Timeout, Effect::Unknown, NAME, operation, "no reply in time")
}

/// The tokio runtime of whoever asks; without one, nothing can be sent or waited for.
pub(crate) fn runtime(operation: &'static str) -> Result<Handle, BackendError> {
    let message = "a tokio runtime is needed, and there is none";
    Handle::try_current().map_err(|_| unsent(ErrorKind::Config, operation, message))
}

/// What never left this process.
pub(crate) fn unsent(kind: ErrorKind, operation: &'static str, message: &str) -> BackendError {
    BackendError::new(kind, Effect::NotApplied, NAME, operation, message)
}

/// A reply that is not of the script's form.
pub(crate) fn malformed() -> BackendError {
    let message = "the reply is not of the script's form";
    BackendError::new(ErrorKind::Unexpected, Effect::Unknown, NAME, "decide", message)
}

/// A request that no trip can carry.
pub(crate) fn too_many_checks(checks: usize, most: usize) -> BackendError {
    let message = format!("{checks} checks are above {most}, the most of one trip");
    BackendError::new(ErrorKind::Config, Effect::NotApplied, NAME, "decide", message)
}
