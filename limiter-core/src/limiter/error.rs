use crate::error::BackendError;
use crate::key::NameError;
use crate::quota::QuotaError;
use crate::request::RequestError;
use std::time::Duration;

/// Why a limiter could not be built, or gave no decision.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A quota is refused.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// A name is too long.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The limiter has no rule.
    #[error("a limiter has at least one rule")]
    NoRule,
    /// Two rules have one name.
    #[error("two rules have the name {0:?}")]
    RepeatedRule(String),
    /// No rule has this name.
    #[error("no rule has the name {0:?}")]
    UnknownRule(String),
    /// A rule counts by a part that the caller does not have.
    #[error("rule {rule:?} counts by {part:?}, which the caller does not have")]
    MissingPart {
        /// The rule's name.
        rule: String,
        /// The missing part's name.
        part: String,
    },
    /// No rule counts by what the caller has.
    #[error("no rule counts by {0}, so there is nothing to reset")]
    NothingToReset(String),
    /// The wait would be longer than the caller allows.
    #[error("the wait, {} us, is above {} us, the most that the caller waits", show(*.wait), .max.as_micros())]
    WaitTooLong {
        /// The wait, what was waited in vain included; `None`: no wait helps, as the cost is above the capacity.
        wait: Option<Duration>,
        /// The most that the caller waits.
        max: Duration,
    },
    /// Waiting needs a tokio runtime.
    #[error("waiting for a permit needs a tokio runtime, and there is none")]
    NoRuntime,
    /// The checks make no request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The store gave no answer.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

fn show(wait: Option<Duration>) -> String {
    wait.map_or_else(|| "without end".to_owned(), |wait| wait.as_micros().to_string())
}
