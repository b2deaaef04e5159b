//! What went wrong, and whether the request may have been recorded: one table.

use limiter_core::{BackendError, Effect, ErrorKind};
use memcache::exp::Error;
use std::io;

/// The store's name in errors and metrics.
pub(crate) const NAME: &str = "memcached";

/// What the failure of one command says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) kind: ErrorKind,
    pub(crate) effect: Effect,
    /// Whether the server said nothing: it is away, or too slow.
    pub(crate) is_silence: bool,
    message: &'static str,
}

impl Class {
    const fn not_applied(kind: ErrorKind, message: &'static str) -> Self {
        Self { kind, effect: Effect::NotApplied, is_silence: false, message }
    }

    const fn unknown(kind: ErrorKind, message: &'static str) -> Self {
        Self { kind, effect: Effect::Unknown, is_silence: false, message }
    }

    const fn by_silence(self) -> Self {
        Self { is_silence: true, ..self }
    }

    /// The server refused the write for want of room, and has deleted what the item held before.
    pub(crate) fn loses_the_item(self) -> bool {
        self == NO_MEMORY || self == TOO_LARGE
    }

    /// The server is not as it said that it is: it takes less, as after a restart with other options.
    pub(crate) fn contradicts_what_it_said(self) -> bool {
        self == TOO_LARGE
    }
}

const NO_MEMORY: Class =
    Class::not_applied(ErrorKind::Unavailable, "the server answered that it is out of memory");
const TOO_LARGE: Class =
    Class::not_applied(ErrorKind::Config, "the server answered that the item is too large: see -I");
const REFUSED: Class =
    Class::not_applied(ErrorKind::Config, "the server does not take the command: authentication?");
/// What it says to a connection above its `-c`; the driver shows no more of it. Servers that do not know the command
/// say the same, and are refused when they are connected.
const CROWDED: Class =
    Class::not_applied(ErrorKind::Unavailable, "the server answered ERROR: it has connections enough (-c)");

/// The class of a command's failure. `is_first`: it is the first that failed of those that travelled together.
///
/// The driver reads replies in order and gives up at the first that is an error. That one is an answer: what it refuses
/// was not applied. Those behind it may have been, whatever is said of them: they were sent, and no reply was read.
pub(crate) fn classify(error: &Error, is_first: bool) -> Class {
    match error {
        Error::Ambiguous { source, .. } => match &**source {
            answer @ (Error::Server(_) | Error::Rejected(_)) if is_first => classify(answer, true),
            Error::Server(_) | Error::Rejected(_) => {
                Class::unknown(ErrorKind::Unavailable, "the server refused a command that was sent before")
            }
            Error::Timeout { .. } => Class::unknown(ErrorKind::Timeout, "no reply in time").by_silence(),
            Error::Io(_) => {
                Class::unknown(ErrorKind::Unavailable, "the connection was lost before the reply")
                    .by_silence()
            }
            _ => Class::unknown(ErrorKind::Unexpected, "the reply is none of the protocol"),
        },
        // From here on the command was not sent in whole, or changes nothing.
        Error::Timeout { .. } => Class::not_applied(ErrorKind::Timeout, "no reply in time").by_silence(),
        Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
            Class::not_applied(ErrorKind::Timeout, "no connection in time").by_silence()
        }
        Error::Io(_) => {
            Class::not_applied(ErrorKind::Unavailable, "the server cannot be reached").by_silence()
        }
        Error::Server(answer) if answer.starts_with("object too large") => TOO_LARGE,
        Error::Server(answer) if answer.starts_with("out of memory") => NO_MEMORY,
        Error::Server(_) => Class::not_applied(ErrorKind::Unavailable, "the server answered SERVER_ERROR"),
        Error::Rejected(answer) if answer == "ERROR" => CROWDED,
        Error::Rejected(_) => REFUSED,
        Error::Protocol(_) => Class::not_applied(ErrorKind::Unexpected, "the reply is none of the protocol"),
        // Errors of parts of the driver that are not in use; later versions may have others.
        _ => Class::unknown(ErrorKind::Unexpected, "the driver failed"),
    }
}

/// A driver's error in one word. What the driver prints of it would show keys; what the system says does not.
pub(crate) fn failed(operation: &'static str, server: &str, class: Class, error: &Error) -> BackendError {
    let message = format!("{server}: {}", class.message);
    let failed = BackendError::new(class.kind, class.effect, NAME, operation, message);
    match cause(error) {
        Some(cause) => failed.with_source(io::Error::new(cause.kind(), cause.to_string())),
        None => failed,
    }
}

fn cause(error: &Error) -> Option<&io::Error> {
    match error {
        Error::Io(error) => Some(error),
        Error::Ambiguous { source, .. } => cause(source),
        _ => None,
    }
}

/// What never left this process.
pub(crate) fn unsent(
    kind: ErrorKind,
    operation: &'static str,
    server: &str,
    message: impl std::fmt::Display,
) -> BackendError {
    BackendError::new(kind, Effect::NotApplied, NAME, operation, format!("{server}: {message}"))
}
