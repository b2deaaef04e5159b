//! Remembered denials: who is known to have nothing left is told so without asking the store.

mod filter;
mod resets;

use crate::algorithm::{Algorithm, Reading};
use crate::backend::{Backend, Locality, Shard};
use crate::decision::{Basis, Decision, Origin, Verdict};
use crate::error::BackendError;
use crate::key::StorageKey;
use crate::layer::Answer;
use crate::metric::{self, Figure};
use crate::quota::{Quota, QuotaError};
use crate::request::{Check, Request};
use crate::time::Timestamp;
use async_trait::async_trait;
use filter::Filter;
use moka::sync::Cache;
use resets::Resets;
use smallvec::SmallVec;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Answers a request that the store has denied lately, as long as the same algorithm still denies it and for at most
/// [`DenyCacheConfig::hold`]: also while the store is away.
///
/// What is remembered is what the store read of the keys, and not its answer: `remaining` and `retry_after` move on, a
/// denied cost of 3 does not deny a later 1, and the request is let through to the store at the instant that was
/// promised. Time counts from when the question was sent. A peek (cost 0) is never answered here, and nothing is
/// learnt of a cost above the capacity. Of a sliding log a reading
/// says what leaves when only where the oldest admission is the one to wait for: it is answered for at the cost that was
/// denied, where that was one too many.
///
/// A request is known by its keys, and answered under the quotas that were denied. What it consumes through this instance
/// is seen, unless a denial was under way meanwhile. What other instances do, and other requests with some of its keys, is
/// seen when the store is asked again: until then, of several checks those that do not deny are reported as they stood at
/// the denial, moved on in time.
///
/// Only a store's own denials are learnt: those that it made in one step, of readings
/// ([`Reading::verdict`](crate::algorithm::Reading::verdict)). A denial after which something is given back is none, nor
/// is one of the degraded mode.
///
/// # Elsewhere
/// A reset, or a quota raised under the same numbers, by another instance is seen within `hold`. Where a store may
/// forget what it holds ([`Backend::may_forget`]), or by [`DenyCacheConfig::until_reset`], denials are kept for as long as
/// they last. Of keys that are asked about together with others this begins a second later, when the store says the same
/// again: until then somebody's request may hold what it gives back. Whether they are is known of this layer's own
/// requests. Where other services ask about a key together with keys that are none of this one's, on a store that forgets,
/// [`DenyCacheConfig::hold`] bounds how long such a denial lasts.
///
/// # Memory
/// At most [`DenyCacheConfig::capacity`] requests, at about 500 bytes each. Which are kept where there are more is for
/// TinyLFU to say: one that is forgotten costs a trip.
///
/// # Errors
/// The inner backend's.
///
/// # Cancel safety
/// A dropped call remembers nothing. A dropped reset has made this instance forget all the same.
///
/// # Example
/// ```
/// use limiter_core::{DenyCache, DenyCacheConfig, Memory, RateLimiter};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), limiter_core::Error> {
/// let config = DenyCacheConfig::new().hold(Duration::from_millis(250));
/// let limiter = RateLimiter::new(2, Duration::from_secs(60), DenyCache::new(Memory::new(), config))?;
/// # Ok(())
/// # }
/// ```
pub struct DenyCache<B> {
    inner: B,
    hold: Option<Duration>,
    denials: Cache<u128, Arc<Denial>, ahash::RandomState>,
    filter: Filter,
    hashers: [ahash::RandomState; 2],
    resets: Resets,
    /// The rules that requests of several checks were of, a bit each; above as many as there are bits, several share one.
    together: AtomicU64,
    hits: AtomicU64,
}

/// For how long a denial is remembered that may be somebody's who gives back.
const MOMENT: Duration = Duration::from_secs(1);

/// When what is held so long takes no room any more. The cache goes by this process's clock, requests may by another.
fn dropped_after(hold: Duration) -> Duration {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(365 * 24 * 3_600);
    hold.saturating_mul(10).clamp(LEAST, MOST)
}

/// How much a [`DenyCache`] remembers, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct DenyCacheConfig {
    capacity: u64,
    hold: Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// A second, or until the reset where the store may forget.
    AsTheStoreIs,
    AtMost(Duration),
    UntilReset,
}

/// What a [`DenyCache`] holds now, and what it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DenyCacheUsage {
    /// Denials that take room, about. One that has run out does so for ten times as long as denials are held, a second at
    /// the least; where they are held for as long as they last, until there is no room.
    pub remembered: u64,
    /// Requests that were answered from them.
    pub hits: u64,
}

/// Whether the store's states are another than before: a peek takes nothing, and neither does what is decided without it.
fn is_taken_from_the_store(request: &Request, verdict: &Verdict) -> bool {
    let mut both = request.checks().iter().zip(verdict.decisions());
    both.any(|(check, decision)| check.cost > 0 && decision.origin == Origin::Store)
}

/// The rules of a request, a bit each.
fn rules(request: &Request) -> u64 {
    request.checks().iter().fold(0, |bits, check| bits | 1 << (check.key.keyspace().number() % 64))
}

/// What a store read when it denied, and what is needed to tell what of it still holds.
struct Denial {
    /// By the store's clock.
    now: Timestamp,
    checks: SmallVec<[Denied; 1]>,
    /// By the clock of whoever asked, which is the request's own where it has an instant.
    asked: Timestamp,
    is_virtual: bool,
    /// The keys' resets, as they stood.
    resets: u64,
    /// Since when the store says so; `None`: nobody can be about to give anything back.
    said_since: Option<Timestamp>,
}

/// A check, and what was read of its key.
struct Denied {
    quota: Quota,
    cost: u64,
    reading: Reading,
}

/// When a question was asked.
#[derive(Clone, Copy)]
struct Asked {
    at: Timestamp,
    resets: u64,
}

impl DenyCacheConfig {
    /// 100,000 requests, each for a second; for as long as it lasts around a store that may forget
    /// ([`Backend::may_forget`]).
    pub const fn new() -> Self {
        Self { capacity: 100_000, hold: Hold::AsTheStoreIs }
    }

    /// The most requests whose denials are remembered; 0: none.
    pub const fn capacity(mut self, requests: u64) -> Self {
        self.capacity = requests;
        self
    }

    /// For how long a denial is remembered at the most.
    pub const fn hold(mut self, hold: Duration) -> Self {
        self.hold = Hold::AtMost(hold);
        self
    }

    /// Remembers a denial for as long as it lasts: for a store that evicts live states.
    pub const fn until_reset(mut self) -> Self {
        self.hold = Hold::UntilReset;
        self
    }
}

impl Default for DenyCacheConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> DenyCache<B> {
    /// The layer around `inner`.
    #[must_use]
    pub fn new(inner: B, config: DenyCacheConfig) -> Self {
        let DenyCacheConfig { capacity, hold } = config;
        let hold = match hold {
            Hold::AsTheStoreIs if inner.may_forget() => None,
            Hold::AsTheStoreIs => Some(MOMENT),
            Hold::AtMost(hold) => Some(hold),
            Hold::UntilReset => None,
        };
        let denials = Cache::builder().max_capacity(capacity);
        let denials = match hold {
            Some(hold) => denials.time_to_live(dropped_after(hold)),
            None => denials,
        };
        let denials = denials.build_with_hasher(ahash::RandomState::new());
        Self {
            inner,
            hold,
            denials,
            filter: Filter::new(hold),
            hashers: [ahash::RandomState::new(), ahash::RandomState::new()],
            resets: Resets::default(),
            together: AtomicU64::new(0),
            hits: AtomicU64::new(0),
        }
    }

    /// The backend that it is around.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// What it holds now, and what it has done.
    #[must_use]
    pub fn usage(&self) -> DenyCacheUsage {
        self.denials.run_pending_tasks();
        DenyCacheUsage { remembered: self.denials.entry_count(), hits: self.hits.load(Ordering::Relaxed) }
    }

    /// The denial that is still one.
    #[inline]
    fn recall(&self, request: &Request, hash: u64) -> Option<Verdict> {
        let now = request.now();
        if self.filter.may_hold(hash, now) { self.recall_known(request, now, hash) } else { None }
    }

    #[inline(never)]
    fn recall_known(&self, request: &Request, now: Timestamp, hash: u64) -> Option<Verdict> {
        if request.checks().iter().all(|check| check.cost == 0) {
            return None;
        }
        let denial = self.denials.get(&self.name(request, hash))?;
        let verdict = denial.at(request, now, self.hold)?;
        if denial.resets != self.resets.of(self.keys(request)) {
            return None;
        }
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(verdict.told_by(Origin::RememberedDenial))
    }

    fn asks(&self, request: &Request) -> Asked {
        if self.hold.is_none()
            && let [_, _, ..] = request.checks()
        {
            let rules = rules(request);
            if self.together.load(Ordering::Relaxed) & rules != rules {
                self.together.fetch_or(rules, Ordering::Relaxed);
            }
        }
        Asked { at: request.now(), resets: self.resets.count() }
    }

    #[inline]
    fn learn(&self, request: &Request, hash: u64, answer: &Answer, asked: Asked) {
        match answer {
            Ok(verdict) if verdict.allowed() => {
                // Virtual time may have stepped back before what is remembered.
                let may_be_known = self.filter.may_hold(hash, asked.at) || request.instant().is_some();
                if may_be_known && is_taken_from_the_store(request, verdict) {
                    self.forget(request, hash);
                }
            }
            Ok(verdict) => {
                // A cost above the capacity is denied whatever the state: it may be one that counts as absent for now.
                let is_of_the_state =
                    |decision: &Decision| decision.allowed || decision.retry_after.is_some();
                if let Some(basis) = verdict.basis()
                    && verdict.decisions().iter().all(is_of_the_state)
                {
                    self.remember(request, hash, basis, asked);
                }
            }
            Err(_) => {}
        }
    }

    /// What is granted takes from what was remembered of the same keys.
    #[cold]
    fn forget(&self, request: &Request, hash: u64) {
        let name = self.name(request, hash);
        // Looked for first, as most are not there, and looking costs less.
        if self.denials.contains_key(&name) {
            self.denials.invalidate(&name);
        }
    }

    fn remember(&self, request: &Request, hash: u64, basis: &Basis, asked: Asked) {
        if !basis.readings.iter().all(|reading| reading.is_of(basis.now)) {
            return;
        }
        let resets = self.resets.of(self.keys(request));
        // A denial from before a reset is not news. Counted after the keys' own are read: see `Resets`.
        if self.resets.count() != asked.resets {
            return;
        }
        let denied = |(check, reading): (&Check, &Reading)| Denied {
            quota: check.quota,
            cost: check.cost,
            reading: *reading,
        };
        let name = self.name(request, hash);
        let mut denial = Denial {
            now: basis.now,
            checks: request.checks().iter().zip(&basis.readings).map(denied).collect(),
            asked: asked.at,
            is_virtual: request.instant().is_some(),
            resets,
            said_since: None,
        };
        if self.hold.is_none() && self.together.load(Ordering::Relaxed) & rules(request) != 0 {
            let known = self.denials.get(&name).filter(|known| known.is_said_again_by(&denial));
            // What was asked later says it already.
            if known.as_ref().is_some_and(|known| known.asked > asked.at) {
                return;
            }
            denial.said_since = Some(known.and_then(|known| known.said_since).unwrap_or(asked.at));
        }
        self.denials.insert(name, Arc::new(denial));
        self.filter.add(hash, asked.at);
    }

    /// A request's keys, by a hash with a secret seed. Not its quotas, as what is granted under one counts under another.
    fn hash(&self, request: &Request) -> u64 {
        let mut hasher = self.hashers[0].build_hasher();
        for check in request.checks() {
            check.key.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// What a denial is kept under: 128 bits that nobody can make collide, where keys would take more.
    fn name(&self, request: &Request, hash: u64) -> u128 {
        // Of the keys' own bytes: what a key is hashed to by itself has 64 bits.
        let mut hasher = self.hashers[1].build_hasher();
        for check in request.checks() {
            (check.key.keyspace(), check.key.bytes()).hash(&mut hasher);
        }
        u128::from(hash) << 64 | u128::from(hasher.finish())
    }

    fn keys(&self, request: &Request) -> impl Iterator<Item = u64> {
        request.checks().iter().map(|check| self.hashers[0].hash_one(&check.key))
    }

    /// Sends what is not answered from memory.
    async fn decide_unknown(&self, batch: &[Request], mut known: Vec<Option<Verdict>>) -> Vec<Answer> {
        let is_unknown = |(request, known): (&Request, &Option<_>)| known.is_none().then(|| request.clone());
        let unknown: Vec<Request> = batch.iter().zip(&known).filter_map(is_unknown).collect();
        let mut answers =
            if unknown.is_empty() { Vec::new() } else { self.ask_all(&unknown).await }.into_iter();
        let answer = |known: &mut Option<Verdict>| match known.take() {
            Some(verdict) => Some(Ok(verdict)),
            None => answers.next(),
        };
        known.iter_mut().map_while(answer).collect()
    }

    async fn ask_all(&self, batch: &[Request]) -> Vec<Answer> {
        let asked: Vec<Asked> = batch.iter().map(|request| self.asks(request)).collect();
        let answers = self.inner.decide(batch).await;
        for ((request, answer), asked) in batch.iter().zip(&answers).zip(asked) {
            self.learn(request, self.hash(request), answer, asked);
        }
        answers
    }
}

impl Denial {
    /// What the same state says at `now`, if that is still no, and known.
    fn at(&self, request: &Request, now: Timestamp, hold: Option<Duration>) -> Option<Verdict> {
        let since = now.as_micros().checked_sub(self.asked.as_micros()).map(Duration::from_micros)?;
        let hold = if self.is_settled() { hold } else { Some(MOMENT) };
        let is_held = hold.is_none_or(|hold| since < hold);
        if !is_held || self.is_virtual != request.instant().is_some() {
            return None;
        }
        let now = self.now + since;
        let checks = request.checks();
        let later = self.checks.iter().zip(checks).map(|(denied, check)| denied.later(check, now));
        let readings = later.collect::<Option<SmallVec<[Reading; 1]>>>()?;
        Reading::decide_all(checks, &readings, now).filter(|verdict| !verdict.allowed())
    }

    /// Whether it is the store's last word, and not what another request may be about to give back.
    fn is_settled(&self) -> bool {
        self.said_since.is_none_or(|since| since + MOMENT <= self.asked)
    }

    /// Whether another one says of each key that nothing has changed, in whichever order they were asked.
    fn is_said_again_by(&self, other: &Self) -> bool {
        let (first, last) = if self.now <= other.now { (self, other) } else { (other, self) };
        let same = |(first, again): (&Denied, &Denied)| {
            first.quota == again.quota
                && first.reading.later(&first.quota, again.cost, last.now) == Some(again.reading)
        };
        self.resets == other.resets && first.checks.iter().zip(&last.checks).all(same)
    }
}

impl Denied {
    fn later(&self, check: &Check, now: Timestamp) -> Option<Reading> {
        let is_said = self.quota.algorithm() != Algorithm::SlidingLog || self.cost == check.cost;
        let is_same = self.quota == check.quota;
        if is_said && is_same { self.reading.later(&self.quota, self.cost, now) } else { None }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for DenyCache<B> {
    async fn decide(&self, batch: &[Request]) -> Vec<Answer> {
        if let [only] = batch {
            return vec![self.decide_one(only).await];
        }
        let recall = |request| self.recall(request, self.hash(request));
        self.decide_unknown(batch, batch.iter().map(recall).collect()).await
    }

    fn decide_one(&self, request: &Request) -> impl Future<Output = Answer> + Send {
        async move {
            let hash = self.hash(request);
            if let Some(verdict) = self.recall(request, hash) {
                return Ok(verdict);
            }
            let asked = self.asks(request);
            let answer = self.inner.decide_one(request).await;
            self.learn(request, hash, &answer, asked);
            answer
        }
    }

    fn decide_now(&self, request: &Request) -> Option<Answer> {
        match self.recall(request, self.hash(request)) {
            Some(verdict) => Some(Ok(verdict)),
            None => self.inner.decide_now(request),
        }
    }

    fn shard(&self, request: &Request) -> Shard {
        self.inner.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.inner.accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        // At once, and again when the store has done it, or may have: what was denied in between is forgotten too.
        let _again = self.resets.begin(keys.iter().map(|key| self.hashers[0].hash_one(key)).collect());
        self.inner.reset(keys).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.inner.ready().await
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
        tell(Figure::new(&metric::REMEMBERED_DENIALS, Backend::name(self), self.usage().remembered));
        self.inner.report(tell);
    }
}

impl<B: Backend> fmt::Debug for DenyCache<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DenyCache")
            .field("store", &self.inner.name())
            .field("hold", &self.hold)
            .field("usage", &self.usage())
            .finish()
    }
}
