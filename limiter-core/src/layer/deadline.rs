//! Deadlines: nobody waits longer for an answer than the limit says.

mod clock;

use crate::backend::{Backend, Locality, Shard};
use crate::error::{BackendError, Effect, ErrorKind};
use crate::key::StorageKey;
use crate::layer::{Answer, all_failed, last_deadline};
use crate::metric::Figure;
use crate::quota::{Quota, QuotaError};
use crate::request::Request;
use async_trait::async_trait;
use clock::Clock;
use std::pin::pin;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

/// Gives each call a limit on its whole wait, queues included: an answer by then, or an error.
///
/// The limit travels with the request as [`Request::deadline`], unless the request has an earlier one. Whoever queues,
/// pools or connects below obeys it, and says of what never left that it was not recorded. This layer's own timer is
/// the backstop.
///
/// # Runtime
/// One task watches all who wait, on the tokio runtime of one of them, and ends when it finds nobody, at the latest a
/// limit after the last call. If it shuts down, the others go on with another. Who waits on a second runtime meanwhile
/// has a timer of their own.
///
/// # Memory
/// About 100 bytes per call that is under way.
///
/// # Units
/// A timer of tokio's has steps of a millisecond, rounded up.
///
/// # Atomicity
/// That of the inner backend. A call of several requests is answered by the last of their deadlines.
///
/// # Errors
/// Besides the inner backend's: `Timeout`, unknown, where nothing below answered by the deadline.
///
/// # Panics
/// In a tokio runtime without timers. Outside of a runtime the deadline still travels, without a backstop.
///
/// # Cancel safety
/// That of the inner backend, whose future is dropped at the deadline.
///
/// # Example
/// ```
/// use limiter_core::{Deadline, DeadlineConfig, Memory, RateLimiter};
/// use std::time::Duration;
///
/// # async fn handle() -> Result<(), limiter_core::Error> {
/// let config = DeadlineConfig::new().decision(Duration::from_millis(20));
/// let limiter = RateLimiter::new(2, Duration::from_secs(60), Deadline::new(Memory::new(), config))?;
/// assert!(limiter.allow("user:42").await);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(handle()).unwrap();
/// ```
#[derive(Debug)]
pub struct Deadline<B> {
    inner: B,
    config: DeadlineConfig,
    clock: Clock,
}

/// How long a [`Deadline`] lets callers wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct DeadlineConfig {
    decision: Duration,
    upkeep: Duration,
}

impl DeadlineConfig {
    /// 50 ms for a decision; a second to reset keys, and to say whether the store is ready.
    pub const fn new() -> Self {
        Self { decision: Duration::from_millis(50), upkeep: Duration::from_secs(1) }
    }

    /// What was given to [`decision`](Self::decision).
    pub(super) const fn limit(&self) -> Duration {
        self.decision
    }

    /// The most that a decision is waited for.
    pub const fn decision(mut self, limit: Duration) -> Self {
        self.decision = limit;
        self
    }

    /// The most that [`Backend::reset`] and [`Backend::ready`] take.
    pub const fn upkeep(mut self, limit: Duration) -> Self {
        self.upkeep = limit;
        self
    }
}

impl Default for DeadlineConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> Deadline<B> {
    /// The layer around `inner`.
    #[must_use]
    pub fn new(inner: B, config: DeadlineConfig) -> Self {
        Self { inner, config, clock: Clock::default() }
    }

    /// The backend that it is around.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// That of a call which begins now.
    fn limit(&self) -> Limit {
        let latest = Instant::now().checked_add(self.config.decision);
        Limit { latest, is_watched: Handle::try_current().is_ok() }
    }

    /// What becomes of `upkeep` within its limit.
    async fn upkeep(
        &self,
        operation: &'static str,
        effect: Effect,
        upkeep: impl Future<Output = Result<(), BackendError>> + Send,
    ) -> Result<(), BackendError> {
        let limit = Instant::now().checked_add(self.config.upkeep);
        match limit.filter(|_| Handle::try_current().is_ok()) {
            Some(limit) => {
                timeout_at(limit, upkeep).await.unwrap_or_else(|_| Err(self.expired(operation, effect)))
            }
            None => upkeep.await,
        }
    }

    fn expired(&self, operation: &'static str, effect: Effect) -> BackendError {
        BackendError::new(ErrorKind::Timeout, effect, self.name(), operation, "no answer by the deadline")
    }
}

/// Until when a call waits, and whether this layer sees to it.
struct Limit {
    /// `None`: beyond all time.
    latest: Option<Instant>,
    is_watched: bool,
}

impl Limit {
    fn of(&self, request: &Request) -> Request {
        self.latest.map_or_else(|| request.clone(), |latest| request.by(latest, self.is_watched))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for Deadline<B> {
    async fn decide(&self, batch: &[Request]) -> Vec<Answer> {
        if let [only] = batch {
            return vec![self.decide_one(only).await];
        }
        let limit = self.limit();
        let batch: Vec<Request> = batch.iter().map(|request| limit.of(request)).collect();
        let Some(deadline) = last_deadline(&batch).filter(|_| limit.is_watched) else {
            return self.inner.decide(&batch).await;
        };
        let answers = self.clock.by(deadline, self.inner.decide(&batch)).await;
        answers.unwrap_or_else(|| all_failed(&batch, &self.expired("decide", Effect::Unknown)))
    }

    fn decide_one(&self, request: &Request) -> impl Future<Output = Answer> + Send {
        async move {
            let limit = self.limit();
            let request = limit.of(request);
            let Some(deadline) = request.deadline().filter(|_| limit.is_watched) else {
                return self.inner.decide_one(&request).await;
            };
            let answer = pin!(self.inner.decide_one(&request));
            let answer = self.clock.by(deadline, answer).await;
            answer.unwrap_or_else(|| Err(self.expired("decide", Effect::Unknown)))
        }
    }

    fn decide_now(&self, request: &Request) -> Option<Answer> {
        self.inner.decide_now(request)
    }

    fn shard(&self, request: &Request) -> Shard {
        self.inner.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.inner.accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        self.upkeep("reset", Effect::Unknown, self.inner.reset(keys)).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.upkeep("ready", Effect::NotApplied, self.inner.ready()).await
    }

    fn locality(&self) -> Locality {
        self.inner.locality()
    }

    fn may_forget(&self) -> bool {
        self.inner.may_forget()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        self.inner.report(tell);
    }
}
