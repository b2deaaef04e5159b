//! Requests: checks that are granted together or not at all.

use crate::algorithm::Algorithm;
use crate::key::{Keyspace, Keyspaces, StorageKey};
use crate::one_or_many::OneOrMany;
use crate::quota::Quota;
use crate::time::Timestamp;
use tokio::time::Instant;

/// One key, its quota, and what the request costs there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What the state is filed under; its algorithm is the quota's.
    pub key: StorageKey,
    /// The quota.
    pub quota: Quota,
    /// Permits; 0 is a peek, which is always allowed and consumes nothing.
    pub cost: u64,
}

impl Check {
    /// Whether the key is of the quota's algorithm.
    #[inline]
    fn matches(&self, position: usize) -> Result<(), RequestError> {
        let (keyspace, algorithm) = (self.key.keyspace(), self.quota.algorithm());
        if keyspace.algorithm() == algorithm {
            return Ok(());
        }
        Err(RequestError::AlgorithmMismatch { position, keyspace, algorithm })
    }
}

/// What is asked of a [`Backend`](crate::Backend): one or more checks, decided in one atomic step.
///
/// # Example: a user and everybody
/// ```
/// use limiter_core::{Algorithm, Check, Keyspace, Quota, Request};
///
/// let per_user = Keyspace::new("shop", "user", Algorithm::TokenBucket)?;
/// let global = Keyspace::new("shop", "global", Algorithm::TokenBucket)?;
/// let request = Request::new([
///     Check { key: per_user.key(b"42"), quota: Quota::per_minute(100).build()?, cost: 1 },
///     Check { key: global.key(b""), quota: Quota::per_second(10_000).build()?, cost: 1 },
/// ])?;
/// assert_eq!(request.checks().len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Request {
    checks: OneOrMany<Check>,
    at: Option<Timestamp>,
    deadline: Option<Instant>,
    /// Whether whoever set the deadline polls at it, so that nobody below needs a timer.
    is_watched: bool,
    /// Whether the deadline stays where it is.
    is_firm: bool,
}

/// Checks that make no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no check.
    #[error("a request has at least one check")]
    Empty,
    /// One storage key stands in two checks.
    #[error("checks {first} and {second} have one key of {keyspace:?}")]
    RepeatedKey {
        /// The position of the first check.
        first: usize,
        /// The position of the other.
        second: usize,
        /// The key's keyspace.
        keyspace: Keyspace,
    },
    /// A check's key belongs to another algorithm than its quota.
    #[error("check {position}: the key is one of {keyspace:?}, the quota is a {algorithm}")]
    AlgorithmMismatch {
        /// The position of the check.
        position: usize,
        /// The key's keyspace.
        keyspace: Keyspace,
        /// The quota's algorithm.
        algorithm: Algorithm,
    },
}

impl Request {
    /// A request of one check, at the store's own time.
    ///
    /// # Errors
    /// The key is of another algorithm than its quota.
    #[inline(always)]
    pub fn one(check: Check) -> Result<Self, RequestError> {
        check.matches(0)?;
        Ok(Self::of_one(check))
    }

    /// The request of one check of another request, which had this instant and deadline.
    pub(crate) fn alone(check: &Check, at: Option<Timestamp>, deadline: Option<Instant>) -> Self {
        Self { at, deadline, ..Self::of_one(check.clone()) }
    }

    /// A request of one check, for a caller's key under a rule, at the store's own time.
    ///
    /// Where a decision costs tens of nanoseconds this is the way: the request is written once, where it stays, as a
    /// copy of what was just written piecemeal waits for it.
    ///
    /// # Example
    /// ```
    /// use limiter_core::{Backend, Keyspaces, Memory, Quota, Request};
    ///
    /// let (memory, rule) = (Memory::new(), Keyspaces::new("shop", "user")?);
    /// let request = Request::by_key(&rule, b"42", &Quota::per_minute(100).build()?, 1);
    /// let verdict = memory.decide_now(&request).ok_or("Memory answers at once")??;
    /// assert!(verdict.allowed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn by_key(rule: &Keyspaces, key: &[u8], quota: &Quota, cost: u64) -> Self {
        let keyspace = rule.of(quota.algorithm());
        match keyspace.short_key(key) {
            Some(key) => Self::of_one(Check { key, quota: *quota, cost }),
            None => Self::of_one(Check { key: keyspace.long_key(key), quota: *quota, cost }),
        }
    }

    #[inline(always)]
    fn of_one(check: Check) -> Self {
        Self { checks: OneOrMany::one(check), at: None, deadline: None, is_watched: false, is_firm: false }
    }

    /// A request of these checks, at the store's own time.
    ///
    /// # Errors
    /// No check, a storage key that occurs twice, or a key of another algorithm than its quota.
    pub fn new<I: IntoIterator<Item = Check>>(checks: I) -> Result<Self, RequestError> {
        let checks: Vec<Check> = checks.into_iter().collect();
        if checks.is_empty() {
            return Err(RequestError::Empty);
        }
        for (position, check) in checks.iter().enumerate() {
            check.matches(position)?;
            if let Some(first) = checks[..position].iter().position(|earlier| earlier.key == check.key) {
                let keyspace = check.key.keyspace();
                return Err(RequestError::RepeatedKey { first, second: position, keyspace });
            }
        }
        Ok(Self {
            checks: OneOrMany::Many(checks),
            at: None,
            deadline: None,
            is_watched: false,
            is_firm: false,
        })
    }

    /// The same request at a given instant: virtual time, for tests through a real store.
    #[must_use]
    pub fn at(mut self, at: Timestamp) -> Self {
        self.at = Some(at);
        self
    }

    /// The same request, not to be sent to the store after `deadline`.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self.is_watched = false;
        self
    }

    /// The same request with a deadline that no layer brings forward.
    #[must_use]
    pub(crate) fn with_firm_deadline(self, deadline: Instant) -> Self {
        Self { is_firm: true, ..self.with_deadline(deadline) }
    }

    /// The same request, to be given up at `latest` unless it already has an earlier deadline; `is_watched`: whoever asks
    /// polls at it.
    #[must_use]
    pub(crate) fn by(&self, latest: Instant, is_watched: bool) -> Self {
        let deadline = match self.deadline {
            Some(own) if self.is_firm => own,
            Some(own) => own.min(latest),
            None => latest,
        };
        Self { deadline: Some(deadline), is_watched, ..self.clone() }
    }

    /// Whether a future that waits for it is polled at its deadline.
    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched
    }

    /// The checks, each with another storage key.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        self.checks.as_slice()
    }

    /// The instant that decides; `None`: the store's own.
    #[must_use]
    pub fn instant(&self) -> Option<Timestamp> {
        self.at
    }

    /// When the caller stops waiting: what is queued then is not sent any more.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// "Now" for whoever decides in this process: the request's instant, else this process's.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.at.unwrap_or_else(Timestamp::now)
    }
}
