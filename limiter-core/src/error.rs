//! Errors of a backend: there is no answer, and whether the request may have been recorded.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// Why a backend gave no answer. A denial is not one: it is an answer.
///
/// One word wide, and cheap to clone: one failed trip fails all that it carried, each with a clone of one error, so
/// that whoever counts failures can [tell](Self::is_same_failure). `Display` prints what happened and leaves the
/// cause to [`source`](std::error::Error::source); neither prints a key.
///
/// # Example
/// ```
/// use limiter_core::{BackendError, Effect, ErrorKind};
///
/// let error = BackendError::new(ErrorKind::Timeout, Effect::Unknown, "redis", "decide", "no reply in 50ms");
/// assert_eq!(error.to_string(), "redis decide: no reply in 50ms (timeout; may have been recorded)");
/// assert!(error.is_outage());
/// ```
#[derive(Clone)]
pub struct BackendError(Arc<Details>);

#[derive(Clone)]
struct Details {
    kind: ErrorKind,
    effect: Effect,
    backend: &'static str,
    operation: &'static str,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The set-up is wrong: a password, a permission, a missing table.
    Config,
    /// The store cannot be reached or cannot serve.
    Unavailable,
    /// The store gave no answer in time.
    Timeout,
    /// This process has as much under way as it may; nothing was sent.
    Overloaded,
    /// Others were faster each time that it was tried.
    Contention,
    /// What the store holds under the key is no state.
    Corrupt,
    /// Anything else.
    Unexpected,
}

/// Whether a request that got no answer may have been recorded. What may have been is never sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It was not, for certain.
    NotApplied,
    /// It may have been.
    Unknown,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Config,
        Self::Unavailable,
        Self::Timeout,
        Self::Overloaded,
        Self::Contention,
        Self::Corrupt,
        Self::Unexpected,
    ];

    /// The name that errors, metrics and logs have for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::Contention => "contention",
            Self::Corrupt => "corrupt",
            Self::Unexpected => "unexpected",
        }
    }

    /// Its place in [`ALL`](Self::ALL), which is in the order of the definition.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl BackendError {
    /// An error of `backend` in `operation`; the message holds no key and no secret.
    #[must_use]
    pub fn new(
        kind: ErrorKind,
        effect: Effect,
        backend: &'static str,
        operation: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self(Arc::new(Details { kind, effect, backend, operation, message: message.into(), source: None }))
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Arc::make_mut(&mut self.0).source = Some(source.into().into());
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the request may have been recorded.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// The backend's name.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.0.backend
    }

    /// Whether the two are clones of one error: one failure, which hit many requests.
    #[must_use]
    pub fn is_same_failure(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether the store is away or too slow, and will be back by itself.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotApplied => "not recorded",
            Self::Unknown => "may have been recorded",
        })
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { kind, effect, backend, operation, message, .. } = &*self.0;
        write!(f, "{backend} {operation}: {message} ({kind}; {effect})")
    }
}

impl fmt::Debug for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendError({self})")
    }
}

impl StdError for BackendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> BackendError {
        BackendError::new(ErrorKind::Timeout, Effect::Unknown, "store", "decide", "no reply")
    }

    #[test]
    fn every_kind_is_in_its_place() {
        for (place, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), place, "{kind}");
        }
    }

    #[test]
    fn clones_are_one_failure_and_equal_errors_are_two() {
        let one = error();
        assert!(one.is_same_failure(&one.clone()));
        assert!(!one.is_same_failure(&error()));
        assert!(!one.is_same_failure(&one.clone().with_source("why")), "its cause is another failure's");
    }
}
