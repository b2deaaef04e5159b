//! The circuit breaker: callers stay away from a store that fails, until it answers again.

mod part;
mod probe;

use crate::backend::{Backend, Locality, Shard};
use crate::error::BackendError;
use crate::key::StorageKey;
use crate::layer::Answer;
use crate::metric::{self, Figure};
use crate::parts::Parts;
use crate::quota::{Quota, QuotaError};
use crate::request::{Check, Request};
use async_trait::async_trait;
use part::{Admission, Outcome, Part};
use smallvec::SmallVec;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

/// Keeps callers away from a store that fails: while it is open they are told at once, by
/// [`decide_now`](Backend::decide_now), and nobody touches a socket.
///
/// Each part of the store ([`Backend::shard`]) has a breaker of its own, so that one dead server costs only its own
/// keys. A request over several parts is refused if one of them is open, and what becomes of it counts for each: a part
/// that is blamed for another's failure is found well by its next probe.
///
/// # Opening
/// A failure is an outage ([`BackendError::is_outage`]) or a wrong set-up. One failed trip is one failure, however many
/// requests it carried, as these have clones of one error; but each call that has paid its own deadline is one, and so is
/// each that comes later and is told the same, as by a store that waits before it connects again. It opens
/// - after [`BreakerConfig::failures_in_a_row`] with no answer in between, or
/// - when the last [`BreakerConfig::min_failures`] came within [`BreakerConfig::window`] and struck
///   [`BreakerConfig::failing_percent`] of the calls since the first of them.
///
/// A wrong set-up (`Config`) is reported by an event of its own, at most once a minute, and is probed for five times as
/// seldom.
///
/// # Closing
/// By itself. While it is open, a task asks the store for where a key stands, which consumes nothing: one probe at a
/// time, the first within a quarter of [`BreakerConfig::probe_interval`], the next an interval later, and then twice as
/// long after each time, up to [`BreakerConfig::longest_probe_interval`]; less up to half of it by chance, but an interval
/// at least. A probe may take [`BreakerConfig::probe_timeout`], whatever callers' deadlines are, as it may have to connect
/// first: what a store needs to answer it, no caller waits for who is no probe. When a probe is answered, one caller at a
/// time is let through, and one more for each answer, until 32 go side by side: no herd meets a store that has just
/// started. The first failure among them opens it again. One whose future is kept and not polled keeps the others out for
/// [`BreakerConfig::trial_timeout`].
///
/// So a store that is back is heard again within the longest interval and what an answer takes: 1.75 s by default.
///
/// The task ends when the breaker closes or is dropped. If its runtime shuts down, the next call starts another; where
/// there is no tokio runtime, or nobody drives the one that has the task, a call that comes when a probe is due is the
/// probe.
///
/// # Memory
/// Up to 10 KiB per part, by default one; parts above 1,024 share with lower ones.
///
/// # Errors
/// Besides the inner backend's: `Unavailable`, not applied, while it is open, of a reset too.
/// [`ready`](Backend::ready) asks the store all the same, as it is there to tell what is wrong.
///
/// # Cancel safety
/// A dropped call counts for nothing, and makes room for another where calls are let through one by one.
///
/// # Example
/// ```
/// use limiter_core::{Breaker, BreakerConfig, Memory, RateLimiter};
/// use std::time::Duration;
///
/// # async fn handle() -> Result<(), limiter_core::Error> {
/// let breaker = Breaker::new(Memory::new(), BreakerConfig::new());
/// let limiter = RateLimiter::new(2, Duration::from_secs(60), breaker)?;
/// assert!(limiter.allow("user:42").await);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(handle()).unwrap();
/// ```
pub struct Breaker<B> {
    shared: Arc<Shared<B>>,
}

struct Shared<B> {
    inner: B,
    config: BreakerConfig,
    parts: Parts<Part>,
    refused: AtomicU64,
    probes: AtomicU64,
}

/// When a [`Breaker`] opens, and how it looks whether the store is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct BreakerConfig {
    failures_in_a_row: NonZeroU32,
    min_failures: NonZeroU32,
    failing_percent: u8,
    window: Duration,
    probe_interval: Duration,
    longest_probe_interval: Duration,
    probe_timeout: Duration,
    trial_timeout: Duration,
    seed: Option<u64>,
}

/// Whether a part of the store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// Everyone goes through.
    Closed,
    /// Nobody does.
    Open,
    /// The store has answered a probe; a few callers go through, and more with each answer.
    Recovering,
}

/// What a [`Breaker`] does now, and what it has done, over all parts of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerUsage {
    /// The state of each part that was ever asked, by its number.
    pub parts: Vec<(u32, BreakerState)>,
    /// How often a part that was closed was opened by failures. One that recovers in vain was not closed.
    pub opened: u64,
    /// Requests and resets that were refused.
    pub refused: u64,
    /// Probes that were sent.
    pub probes: u64,
}

impl BreakerConfig {
    /// Ten failures in a row, or twenty within 10 s that strike half of the calls; a probe within a quarter of a second, the
    /// next 1 s later, then every 1.75 s at most, each given up after 500 ms; a second for a caller that is let through.
    pub const fn new() -> Self {
        const IN_A_ROW: NonZeroU32 = NonZeroU32::new(10).unwrap();
        const MIN: NonZeroU32 = NonZeroU32::new(20).unwrap();
        Self {
            failures_in_a_row: IN_A_ROW,
            min_failures: MIN,
            failing_percent: 50,
            window: Duration::from_secs(10),
            probe_interval: Duration::from_secs(1),
            longest_probe_interval: Duration::from_millis(1_750),
            probe_timeout: Duration::from_millis(500),
            trial_timeout: Duration::from_secs(1),
            seed: None,
        }
    }

    /// After how many failures without an answer in between it opens.
    pub const fn failures_in_a_row(mut self, failures: NonZeroU32) -> Self {
        self.failures_in_a_row = failures;
        self
    }

    /// How many failures it takes that do not come in a row.
    pub const fn min_failures(mut self, failures: NonZeroU32) -> Self {
        self.min_failures = failures;
        self
    }

    /// The share of the calls since the first of these, in per cent, from which on it opens; above 100, it never does for
    /// that.
    pub const fn failing_percent(mut self, percent: u8) -> Self {
        self.failing_percent = percent;
        self
    }

    /// The time within which these failures come.
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// The least time between two probes.
    pub const fn probe_interval(mut self, interval: Duration) -> Self {
        self.probe_interval = interval;
        self
    }

    /// The most time between two probes, where it is more than the least. For a wrong set-up both are five times as long.
    pub const fn longest_probe_interval(mut self, interval: Duration) -> Self {
        self.longest_probe_interval = interval;
        self
    }

    /// How long a probe may take, connecting and queueing included: its deadline, which no other layer's brings forward. A
    /// store's own limits hold all the same.
    pub const fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.probe_timeout = timeout;
        self
    }

    /// How long one of the few callers may take that are let through, before another goes instead: no shorter than any
    /// deadline that it has, which a limiter sees to.
    pub const fn trial_timeout(mut self, timeout: Duration) -> Self {
        self.trial_timeout = timeout;
        self
    }

    /// The same where callers have this deadline.
    pub(super) fn for_callers_of(self, deadline: Duration) -> Self {
        Self { trial_timeout: self.trial_timeout.max(deadline), ..self }
    }

    /// Makes the jitter that of this seed, for simulations that can be repeated; by default it is random.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> Breaker<B> {
    /// The layer around `inner`, closed.
    #[must_use]
    pub fn new(inner: B, config: BreakerConfig) -> Self {
        let (refused, probes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { inner, config, parts: Parts::new(), refused, probes }) }
    }

    /// The backend that it is around.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.shared.inner
    }

    /// What it does now, and what it has done.
    #[must_use]
    pub fn usage(&self) -> BreakerUsage {
        let (mut parts, mut opened) = (Vec::new(), 0);
        for (number, part) in self.shared.parts.known() {
            parts.push((number, part.state()));
            opened += part.opened();
        }
        BreakerUsage {
            parts,
            opened,
            refused: self.shared.refused.load(Ordering::Relaxed),
            probes: self.shared.probes.load(Ordering::Relaxed),
        }
    }

    /// Lets the request through, or says why not.
    #[inline(always)]
    fn enter<'a>(&'a self, request: &'a Request) -> Result<Passage<'a, B>, BackendError> {
        let mut passage = Passage { shared: &self.shared, through: SmallVec::new() };
        for (number, check) in self.shared.needed(request) {
            let part = self.shared.part(number);
            match part.enter() {
                Ok(admission) => passage.through.push((part, check, admission)),
                Err(refusal) => {
                    self.shared.refuse(part, check, request);
                    return Err(refusal);
                }
            }
        }
        Ok(passage)
    }

    /// Sends those that are let through.
    async fn decide_some(&self, batch: &[Request]) -> Vec<Answer> {
        let entered: Vec<_> = batch.iter().map(|request| self.enter(request)).collect();
        let through =
            |(request, passage): (&Request, &Result<_, _>)| passage.is_ok().then(|| request.clone());
        let sent: Vec<Request> = batch.iter().zip(&entered).filter_map(through).collect();
        let mut answers = if sent.len() == batch.len() {
            self.shared.inner.decide(batch).await.into_iter()
        } else if sent.is_empty() {
            Vec::new().into_iter()
        } else {
            self.shared.inner.decide(&sent).await.into_iter()
        };
        let mut all = Vec::with_capacity(batch.len());
        for (passage, request) in entered.into_iter().zip(batch) {
            all.push(match passage {
                Err(refusal) => Err(refusal),
                Ok(passage) => {
                    // A reply that is too short is one here, and an error above.
                    let Some(answer) = answers.next() else { break };
                    passage.leave(request, &answer);
                    answer
                }
            });
        }
        all
    }
}

impl<B: Backend> Shared<B> {
    fn part(&self, number: u32) -> &Arc<Part> {
        self.parts.get(number, |number| Part::new(number, self.config))
    }

    /// The parts that a request needs, and a check of it that is in each.
    #[inline(always)]
    fn needed<'r>(&self, request: &'r Request) -> SmallVec<[(u32, &'r Check); 1]> {
        let mut needed = SmallVec::new();
        match (self.inner.shard(request), request.checks()) {
            (Shard::One(number), [check, ..]) => needed.push((number, check)),
            (_, checks) => {
                for check in checks {
                    let alone = Request::one(check.clone()).map(|alone| self.inner.shard(&alone));
                    if let Ok(Shard::One(number)) = alone
                        && needed.iter().all(|(known, _)| *known != number)
                    {
                        needed.push((number, check));
                    }
                }
            }
        }
        needed
    }

    /// Why a request is refused now that needs a part for which this says so.
    fn refused(
        self: &Arc<Self>,
        request: &Request,
        refusal: fn(&Part) -> Option<BackendError>,
    ) -> Option<BackendError> {
        self.needed(request).into_iter().find_map(|(number, check)| {
            let part = self.part(number);
            let refusal = refusal(part)?;
            self.refuse(part, check, request);
            Some(refusal)
        })
    }

    /// Counts a refusal, and sees to it that somebody looks whether the part is back.
    fn refuse(self: &Arc<Self>, part: &Arc<Part>, check: &Check, request: &Request) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        probe::start(self, part, check, request);
    }
}

/// A request on its way through the parts that it needs. Dropped before its answer came, it counts for nothing.
struct Passage<'a, B> {
    shared: &'a Arc<Shared<B>>,
    through: SmallVec<[(&'a Arc<Part>, &'a Check, Admission); 1]>,
}

impl<B: Backend> Passage<'_, B> {
    #[inline(always)]
    fn leave(mut self, request: &Request, answer: &Answer) {
        for (part, check, admission) in self.through.drain(..) {
            let outcome = Outcome::of(answer);
            part.leave(admission, outcome, self.shared.inner.name());
            if matches!(outcome, Outcome::Failed(_)) && part.state() == BreakerState::Open {
                probe::start(self.shared, part, check, request);
            }
        }
    }
}

impl<B> Drop for Passage<'_, B> {
    fn drop(&mut self) {
        for (part, _, admission) in self.through.drain(..) {
            part.leave(admission, Outcome::Nothing, "");
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for Breaker<B> {
    async fn decide(&self, batch: &[Request]) -> Vec<Answer> {
        match batch {
            [only] => vec![self.decide_one(only).await],
            some => self.decide_some(some).await,
        }
    }

    fn decide_one(&self, request: &Request) -> impl Future<Output = Answer> + Send {
        async move {
            let passage = self.enter(request)?;
            let answer = self.shared.inner.decide_one(request).await;
            passage.leave(request, &answer);
            answer
        }
    }

    fn decide_now(&self, request: &Request) -> Option<Answer> {
        match self.shared.refused(request, Part::refusal) {
            Some(refusal) => Some(Err(refusal)),
            None => self.shared.inner.decide_now(request),
        }
    }

    fn shard(&self, request: &Request) -> Shard {
        self.shared.inner.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.shared.inner.accepts(quota)
    }

    /// Refused, all of it, where a request for one of the keys is.
    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        if let Some(refusal) =
            keys.iter().filter_map(peek).find_map(|peek| self.shared.refused(&peek, Part::is_open))
        {
            let (kind, effect) = (refusal.kind(), refusal.effect());
            let error = BackendError::new(kind, effect, self.name(), "reset", "the breaker is open");
            return Err(error.with_source(refusal));
        }
        self.shared.inner.reset(keys).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.shared.inner.ready().await
    }

    fn locality(&self) -> Locality {
        self.shared.inner.locality()
    }

    fn may_forget(&self) -> bool {
        self.shared.inner.may_forget()
    }

    fn name(&self) -> &'static str {
        self.shared.inner.name()
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        let BreakerUsage { parts, opened, .. } = self.usage();
        for (state, label) in [
            (BreakerState::Closed, "closed"),
            (BreakerState::Open, "open"),
            (BreakerState::Recovering, "recovering"),
        ] {
            let count = parts.iter().filter(|(_, of)| *of == state).count();
            tell(Figure::new(&metric::BREAKERS, self.name(), count as u64).in_state(label));
        }
        tell(Figure::new(&metric::BREAKER_OPENINGS, self.name(), opened));
        self.shared.inner.report(tell);
    }
}

impl<B: Backend> fmt::Debug for Breaker<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("store", &self.shared.inner.name())
            .field("config", &self.shared.config)
            .field("usage", &self.usage())
            .finish()
    }
}

/// The question where a key stands, for which any quota of its algorithm will do.
fn peek(key: &StorageKey) -> Option<Request> {
    let quota = Quota::per_second(1).algorithm(key.keyspace().algorithm()).build().ok()?;
    Request::one(Check { key: key.clone(), quota, cost: 0 }).ok()
}

/// Whether a task can be started here.
fn has_runtime() -> bool {
    Handle::try_current().is_ok()
}
