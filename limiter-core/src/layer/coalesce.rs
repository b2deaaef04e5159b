//! Coalescing: while a round trip travels, callers queue, and the next one carries them all.

mod arrival;
mod call;
mod queue;
mod trip;

use crate::backend::{Backend, Locality, Shard};
use crate::error::{BackendError, Effect, ErrorKind};
use crate::key::StorageKey;
use crate::layer::Answer;
use crate::metric::{self, Figure};
use crate::parts::Parts;
use crate::quota::{Quota, QuotaError};
use crate::request::Request;
use async_trait::async_trait;
use call::{Call, Only};
use queue::Queue;
use std::fmt;
use std::num::NonZeroUsize;
use std::slice;
use std::sync::Arc;
use tokio::time::Instant;

/// Carries the requests of many callers in one round trip: what comes while the store is busy goes together, as
/// soon as it can.
///
/// There is no timer, so an idle limiter adds nothing. It adapts: while few requests are outstanding, each call
/// goes to the store at once, as it is, in its caller's own future. From [`CoalesceConfig::eager`] on, calls
/// queue, and whenever one of [`CoalesceConfig::slots`] is free the longest waiting ones leave together, up to
/// [`CoalesceConfig::max_batch`] requests. Where no more are outstanding than were lately, slots share them alike, 20 or
/// more each, so that the store has work while answers are told. It goes back to single calls once two thirds as many
/// are outstanding.
///
/// Each part of the store ([`Backend::shard`]) has a queue and slots of its own, so that one which hangs holds up
/// nobody else. A call over several parts is its own trip.
///
/// # Atomicity
/// That of the inner backend. The requests of one call travel in one trip, in their order; calls that wait at the
/// same time may be decided in any order.
///
/// # Deadlines
/// A request that still waits here at its [`Request::deadline`] is taken out, under the lock that decides what is
/// sent, and answered `NotApplied`. A call of several requests is answered when the last of them is. A trip is
/// given up at the last deadline that it carries, as nobody waits any more: a store that hangs holds a slot no
/// longer than that. One that carries a request without a deadline is not given up.
///
/// # Memory
/// At most [`CoalesceConfig::max_queued`] requests wait per part, and as many are on their way over several parts.
/// Parts above 1,024 share the queues of lower ones.
///
/// # Runtime
/// Trips that carry several callers run in tasks of their own, on the tokio runtime of one of the callers. If it
/// shuts down, calls that still wait start another on their own runtimes. As with any spawned task, a
/// current-thread runtime has to be kept running.
///
/// # Errors
/// Besides the inner backend's:
/// - `Overloaded`, not applied: the queue is full;
/// - `Timeout`, not applied: still waiting at the deadline; unknown: on its way at its trip's last deadline;
/// - `Config`, not applied: the call would have to wait, and there is no tokio runtime;
/// - `Unexpected`, unknown: while the trip was on its way the inner backend panicked or the runtime shut down, or
///   the answers were too few.
///
/// # Panics
/// A call that travels in its caller's own future panics where the inner backend does. A request with a deadline
/// waits in a tokio runtime without timers.
///
/// # Cancel safety
/// A call that is dropped while it waits is taken out and never sent. Nobody else notices.
///
/// # Example
/// ```
/// use limiter_core::{Coalesce, CoalesceConfig, Memory, RateLimiter};
/// use std::num::NonZeroUsize;
/// use std::time::Duration;
///
/// # async fn handle() -> Result<(), limiter_core::Error> {
/// let config = CoalesceConfig::new().max_batch(NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN));
/// let limiter = RateLimiter::new(2, Duration::from_secs(60), Coalesce::new(Memory::new(), config))?;
/// assert!(limiter.allow("user:42").await);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(handle()).unwrap();
/// ```
pub struct Coalesce<B> {
    inner: Arc<B>,
    config: CoalesceConfig,
    queues: Parts<Queue>,
    /// What is on its way over several parts; nothing ever waits in it.
    crossing: Queue,
}

/// When a [`Coalesce`] collects, and how much.
///
/// The defaults are those for a store with round trips of about a tenth of a millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct CoalesceConfig {
    eager: usize,
    slots: NonZeroUsize,
    max_batch: NonZeroUsize,
    max_queued: NonZeroUsize,
}

/// What a [`Coalesce`] holds now, and what it has done, over all parts of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoalesceUsage {
    /// Requests that wait.
    pub queued: usize,
    /// Requests on their way to the store and back.
    pub in_flight: usize,
    /// Round trips that have ended, however they did, single calls among them.
    pub trips: u64,
    /// Requests that those round trips carried.
    pub carried: u64,
}

impl CoalesceConfig {
    /// Single calls up to 24 outstanding requests; then two trips at a time of up to 128; 8,192 may wait.
    pub const fn new() -> Self {
        const SLOTS: NonZeroUsize = NonZeroUsize::new(2).unwrap();
        const MAX_BATCH: NonZeroUsize = NonZeroUsize::new(128).unwrap();
        const MAX_QUEUED: NonZeroUsize = NonZeroUsize::new(8_192).unwrap();
        Self { eager: 24, slots: SLOTS, max_batch: MAX_BATCH, max_queued: MAX_QUEUED }
    }

    /// Up to how many outstanding requests each call goes to the store at once. With 0, only a call that finds
    /// nothing outstanding does.
    pub const fn eager(mut self, requests: usize) -> Self {
        self.eager = requests;
        self
    }

    /// How many trips that carry queued calls are on their way at a time, per part of the store. More of them are smaller.
    pub const fn slots(mut self, trips: NonZeroUsize) -> Self {
        self.slots = trips;
        self
    }

    /// The most requests of a trip. A single call of more is not split: it is its own trip.
    pub const fn max_batch(mut self, requests: NonZeroUsize) -> Self {
        self.max_batch = requests;
        self
    }

    /// The most requests that wait, per part of the store. A single call of more waits where nothing else does.
    pub const fn max_queued(mut self, requests: NonZeroUsize) -> Self {
        self.max_queued = requests;
        self
    }
}

impl Default for CoalesceConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> Coalesce<B> {
    /// The layer around `inner`.
    #[must_use]
    pub fn new(inner: B, config: CoalesceConfig) -> Self {
        Self { inner: Arc::new(inner), config, queues: Parts::new(), crossing: Queue::default() }
    }

    /// What it holds now, and what it has done.
    #[must_use]
    pub fn usage(&self) -> CoalesceUsage {
        let queues = self.queues.known().map(|(_, queue)| &**queue);
        queues.chain([&self.crossing]).map(Queue::usage).fold(CoalesceUsage::default(), |sum, part| {
            CoalesceUsage {
                queued: sum.queued + part.queued,
                in_flight: sum.in_flight + part.in_flight,
                trips: sum.trips + part.trips,
                carried: sum.carried + part.carried,
            }
        })
    }

    /// The queue of the one part that all these requests need.
    fn queue(&self, batch: &[Request]) -> Option<&Arc<Queue>> {
        let mut shards = batch.iter().map(|request| self.inner.shard(request));
        let Shard::One(number) = shards.next()? else { return None };
        if shards.any(|shard| shard != Shard::One(number)) {
            return None;
        }
        Some(self.queues.get(number, |_| Queue::default()))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for Coalesce<B> {
    async fn decide(&self, batch: &[Request]) -> Vec<Answer> {
        match batch {
            [only] => vec![self.decide_one(only).await],
            batch => Call::new(self, batch).await,
        }
    }

    fn decide_one(&self, request: &Request) -> impl Future<Output = Answer> + Send {
        async move {
            let Only(answer) = Call::new(self, slice::from_ref(request)).await;
            answer.unwrap_or_else(|| Err(too_few(self.name())))
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
        self.inner.reset(keys).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.inner.ready().await
    }

    fn locality(&self) -> Locality {
        match self.inner.locality() {
            Locality::InProcess => Locality::InProcess,
            Locality::Remote | Locality::Combining => Locality::Combining,
        }
    }

    fn may_forget(&self) -> bool {
        self.inner.may_forget()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        let CoalesceUsage { queued, in_flight, .. } = self.usage();
        tell(Figure::new(&metric::QUEUED_REQUESTS, self.name(), queued as u64));
        tell(Figure::new(&metric::IN_FLIGHT_REQUESTS, self.name(), in_flight as u64));
        self.inner.report(tell);
    }
}

impl<B: Backend> fmt::Debug for Coalesce<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalesce")
            .field("store", &self.inner.name())
            .field("config", &self.config)
            .field("usage", &self.usage())
            .finish()
    }
}

/// Whether it is not to be sent any more.
fn is_late(request: &Request, now: Instant) -> bool {
    request.deadline().is_some_and(|deadline| deadline <= now)
}

fn late(backend: &'static str) -> BackendError {
    let message = "still queued at the deadline";
    BackendError::new(ErrorKind::Timeout, Effect::NotApplied, backend, "decide", message)
}

fn full(backend: &'static str) -> BackendError {
    let message = "the queue is full";
    BackendError::new(ErrorKind::Overloaded, Effect::NotApplied, backend, "decide", message)
}

fn no_runtime(backend: &'static str) -> BackendError {
    let message = "queueing needs a running tokio runtime, and there is none";
    BackendError::new(ErrorKind::Config, Effect::NotApplied, backend, "decide", message)
}

fn given_up(backend: &'static str) -> BackendError {
    let message = "no reply by the last deadline of the batch";
    BackendError::new(ErrorKind::Timeout, Effect::Unknown, backend, "decide", message)
}

fn too_few(backend: &'static str) -> BackendError {
    let message = "the batch came back with too few answers";
    BackendError::new(ErrorKind::Unexpected, Effect::Unknown, backend, "decide", message)
}

fn panicked(backend: &'static str) -> BackendError {
    let message = "the backend panicked while it decided the batch";
    BackendError::new(ErrorKind::Unexpected, Effect::Unknown, backend, "decide", message)
}

fn lost(backend: &'static str) -> BackendError {
    let message = "the runtime that carried the batch shut down";
    BackendError::new(ErrorKind::Unexpected, Effect::Unknown, backend, "decide", message)
}
