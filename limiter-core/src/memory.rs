//! The in-process store: exact, bounded, no global lock, never a wait.

mod entry;
mod shard;
mod table;

use crate::backend::{Backend, Locality, Shard as StorePart};
use crate::decision::{Decision, Verdict};
use crate::error::{BackendError, Effect, ErrorKind};
use crate::key::StorageKey;
use crate::lock::{Lock, Locked};
use crate::metric::{self, Figure};
use crate::quota::{Quota, QuotaError};
use crate::request::{Check, Request};
use crate::time::Timestamp;
use async_trait::async_trait;
use shard::{LogRoom, Reset, Shard, Visit, with_algorithm};
use smallvec::SmallVec;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use table::Stored;

/// The in-process store. Clones share one.
///
/// # Atomicity
/// Exact for every request, also one of several checks. Keys are spread over independently locked parts; a
/// request locks those of its keys, in one order, for a few hundred nanoseconds.
///
/// # Memory
/// Bounded by [`MemoryBuilder::max_keys`] and [`MemoryBuilder::log_entries`]. A state is dropped only once it
/// is as if never used. When all room is taken by live states, none is forgotten: new keys share a fixed set
/// of overflow states, 16 per part, rule and quota, chosen by a hash with a secret seed. A shared state is
/// stricter than an own one and never looser, and a key that gets its own slot later takes a copy along. So
/// a flood of made-up keys cannot free a key that is used up. Checks of one request that may share a state are
/// decided as their sum. A rule's new quota has new shared states.
///
/// # Time
/// [`Timestamp::now`], which never steps; [`Request::instant`] where it is given.
///
/// # Example
/// ```
/// use limiter_core::{Memory, RateLimiter};
/// use std::time::Duration;
///
/// let limiter = RateLimiter::new(2, Duration::from_secs(60), Memory::new())?;
/// let allowed = ["a", "a", "a", "b"].map(|key| limiter.check_now(key).is_some_and(|d| d.allowed));
/// assert_eq!(allowed, [true, true, false, true]);
/// # Ok::<(), limiter_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Memory {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Box<[Lock<Shard>]>,
    logs: Arc<LogRoom>,
    virtual_expiry: Duration,
    /// Until when, on this process's clock, states of virtual time may be live whatever the clock says.
    virtual_until: AtomicU64,
}

/// How large a [`Memory`] may become.
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct MemoryBuilder {
    max_keys: NonZeroUsize,
    log_entries: usize,
    grace: Duration,
    virtual_expiry: Duration,
}

/// What a [`Memory`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUsage {
    /// Keys with a state of their own.
    pub keys: usize,
    /// Overflow states, each shared by many keys.
    pub shared_states: usize,
    /// Entries of all sliding window logs.
    pub log_entries: usize,
    /// Admissions so far that were taken from a shared state, as there was no room for one more key.
    pub shared_admissions: u64,
    /// States dropped so far, each of them as if never used.
    pub evictions: u64,
}

/// Keys per part, from which on a further part pays.
const KEYS_PER_SHARD: usize = 256;

/// More parts than cores that could contend for them, and not so many that their tables waste room.
const MAX_SHARDS: usize = 64;

impl Memory {
    /// Room for 1,000,000 keys, about 100 bytes each (a log takes 100 more), and 8,000,000 further log entries of
    /// 16 bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A store of another size.
    pub fn builder() -> MemoryBuilder {
        const MILLION: NonZeroUsize = NonZeroUsize::new(1_000_000).unwrap();
        MemoryBuilder {
            max_keys: MILLION,
            log_entries: 8 * MILLION.get(),
            grace: Duration::from_secs(1),
            virtual_expiry: Duration::from_secs(3_600),
        }
    }

    /// Decides as if the checks had these quotas, one for each.
    pub(crate) fn decide_under(&self, request: &Request, quotas: &[Quota]) -> Verdict {
        let (inner, now) = (&*self.inner, request.now());
        let may_drop = inner.may_drop(request.instant(), now);
        let visit = |(check, quota)| visit(check, quota, now, may_drop);
        match (request.checks(), quotas) {
            ([check], [quota]) => {
                let visit = visit((check, quota));
                with_algorithm!(quota.algorithm(), A => inner.answer_one::<A, _>(visit, |verdict| verdict))
            }
            (checks, quotas) => inner.answer_all(checks.iter().zip(quotas).map(visit).collect()),
        }
    }

    /// Takes from each check by itself, under what is made of its quota, what somebody else has admitted, as far as it is
    /// there.
    pub(crate) fn charge(&self, request: &Request, under: impl Fn(&Quota) -> Quota) {
        let (inner, now) = (&*self.inner, request.now());
        let may_drop = inner.may_drop(request.instant(), now);
        for check in request.checks().iter().filter(|check| check.cost > 0) {
            let quota = under(&check.quota);
            let visit = visit(check, &quota, now, may_drop);
            let visit = Visit { cost: check.cost.min(quota.capacity()), ..visit };
            let mut shard = inner.shards[inner.index(visit.key)].lock();
            let decision = shard.decide(&visit);
            if !decision.allowed {
                let _what_is_left = shard.decide(&Visit { cost: decision.remaining, ..visit });
            }
        }
    }

    /// [`Backend::reset`], which never waits here.
    pub(crate) fn reset_now(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        self.inner.reset(keys)
    }

    /// What it holds now.
    #[must_use]
    pub fn usage(&self) -> MemoryUsage {
        let mut usage = MemoryUsage { log_entries: self.inner.logs.used(), ..MemoryUsage::default() };
        self.inner.shards.iter().for_each(|shard| shard.lock().count(&mut usage));
        usage
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBuilder {
    /// The most keys with a state of their own. They are spread evenly over at most 64 parts, so that the
    /// first part may be full somewhat earlier.
    pub const fn max_keys(mut self, keys: NonZeroUsize) -> Self {
        self.max_keys = keys;
        self
    }

    /// The most entries that all sliding window logs hold together, beyond one per key; what a log has reserved
    /// may be four times what it holds. When they are used up, a log that grows joins its two newest entries at
    /// the newer instant, which is stricter.
    pub const fn log_entries(mut self, entries: usize) -> Self {
        self.log_entries = entries;
        self
    }

    /// For how long a state is kept once it is as if never used, so that dropping it changes no answer of
    /// whoever read the clock before; a second by default.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// For how long, on this process's clock, nothing is dropped after a request that carried its own
    /// instant; an hour by default. Such instants need not agree with each other.
    pub const fn virtual_expiry(mut self, expiry: Duration) -> Self {
        self.virtual_expiry = expiry;
        self
    }

    /// The store, empty.
    #[must_use]
    pub fn build(self) -> Memory {
        // The first reading of the clock calibrates it, which no decision should wait for.
        let _ = Timestamp::now();
        let keys = self.max_keys.get();
        let wanted = (keys / KEYS_PER_SHARD).clamp(1, MAX_SHARDS);
        let shards = 1 << wanted.ilog2();
        let logs = Arc::new(LogRoom::new(self.log_entries));
        let grace = u64::try_from(self.grace.as_micros()).unwrap_or(u64::MAX);
        let shard = || Lock::new(Shard::new(keys / shards, Arc::clone(&logs), grace));
        Memory {
            inner: Arc::new(Inner {
                shards: std::iter::repeat_with(shard).take(shards).collect(),
                logs,
                virtual_expiry: self.virtual_expiry,
                virtual_until: AtomicU64::new(0),
            }),
        }
    }
}

impl Inner {
    /// The verdict, as `wrap` makes it: so that it is written where the caller wants it, as a copy of what was just
    /// written piecemeal waits for it.
    #[inline]
    fn answer<T>(&self, request: &Request, wrap: impl Fn(Verdict) -> T) -> T {
        let now = request.now();
        let may_drop = self.may_drop(request.instant(), now);
        match request.checks() {
            [check] => {
                let visit = visit(check, &check.quota, now, may_drop);
                with_algorithm!(check.quota.algorithm(), A => self.answer_one::<A, T>(visit, wrap))
            }
            checks => {
                let visit = |check| visit(check, &check.quota, now, may_drop);
                wrap(self.answer_all(checks.iter().map(visit).collect()))
            }
        }
    }

    /// Never inlined, so that each algorithm writes its verdict to where the caller wants it.
    #[inline(never)]
    fn answer_one<A: Stored, T>(&self, visit: Visit<'_>, wrap: impl Fn(Verdict) -> T) -> T {
        let mut shard = self.shards[self.index(visit.key)].lock();
        match shard.decide_known::<A>(&visit) {
            // In each arm, as one decision out of two would be copied.
            Some(decision) => wrap(Verdict::one(decision)),
            None => wrap(Verdict::one(shard.decide_newcomer::<A>(&visit))),
        }
    }

    /// All or nothing: every part that is needed is locked, in ascending order, so that no two requests wait
    /// for each other; all checks are previewed, and taken if all are admitted.
    fn answer_all(&self, mut visits: SmallVec<[Visit<'_>; 4]>) -> Verdict {
        let index = |visit: &Visit<'_>| self.index(visit.key);
        let mut needed: SmallVec<[usize; 4]> = visits.iter().map(index).collect();
        needed.sort_unstable();
        needed.dedup();
        let mut locked: SmallVec<[Locked<'_, Shard>; 4]> =
            needed.iter().map(|index| self.shards[*index].lock()).collect();
        let place = |visit: &Visit<'_>| needed.partition_point(|i| *i < index(visit));
        // Now or not at all: between a look and the taking, a sweep could drop the state that was looked at.
        for visit in &mut visits {
            locked[place(visit)].sweep(visit);
            visit.may_drop = false;
        }

        let previews: SmallVec<[Decision; 4]> = visits
            .iter()
            .enumerate()
            .map(|(i, visit)| {
                let shard = &mut locked[place(visit)];
                let here = visits[..i].iter().filter(|earlier| index(earlier) == index(visit));
                let joint = here
                    .filter(|earlier| shard.may_share(earlier, visit, visits.len()))
                    .map(|earlier| earlier.cost);
                let joint = joint.fold(0, u64::saturating_add);
                shard.preview(visit, joint)
            })
            .collect();
        if previews.iter().all(|preview| preview.allowed) {
            return visits.iter().map(|visit| locked[place(visit)].decide(visit)).collect();
        }
        let report = |(preview, visit): (Decision, &Visit<'_>)| {
            if preview.allowed { locked[place(visit)].preview(&visit.peek(), 0) } else { preview }
        };
        previews.into_iter().zip(&visits).map(report).collect()
    }

    fn index(&self, key: &StorageKey) -> usize {
        // Not the bits that a table uses to find a slot: the lowest and the highest seven.
        let [_, _, bits, ..] = key.hashed().to_be_bytes();
        usize::from(bits) & (self.shards.len() - 1)
    }

    /// Whether states that are reset at `now` may be dropped: not while virtual time is about, in which the
    /// next request may come from an earlier instant.
    fn may_drop(&self, at: Option<Timestamp>, now: Timestamp) -> bool {
        if at.is_none() {
            return now.as_micros() >= self.virtual_until.load(Ordering::Relaxed);
        }
        let now = Timestamp::now();
        let until = (now + self.virtual_expiry).as_micros();
        now.as_micros() >= self.virtual_until.fetch_max(until, Ordering::Relaxed).max(until)
    }

    fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        let (mut forgotten, mut shared) = (0, 0);
        for key in keys {
            match self.shards[self.index(key)].lock().reset(key) {
                Reset::Forgotten => forgotten += 1,
                Reset::Unknown => {}
                Reset::Shared => shared += 1,
            }
        }
        if shared == 0 {
            return Ok(());
        }
        let message = format!(
            "{shared} of {} states may be part of an overflow state, which was left as it is; {forgotten} were forgotten",
            keys.len()
        );
        let effect = if forgotten == 0 { Effect::NotApplied } else { Effect::Unknown };
        Err(BackendError::new(ErrorKind::Unexpected, effect, NAME, "reset", message))
    }
}

#[inline(always)]
fn visit<'a>(check: &'a Check, quota: &'a Quota, now: Timestamp, may_drop: bool) -> Visit<'a> {
    Visit { key: &check.key, quota, cost: check.cost, now, may_drop }
}

const NAME: &str = "memory";

#[async_trait]
impl Backend for Memory {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        batch.iter().map(|request| self.inner.answer(request, Ok)).collect()
    }

    fn decide_now(&self, request: &Request) -> Option<Result<Verdict, BackendError>> {
        self.inner.answer(request, |verdict| Some(Ok(verdict)))
    }

    fn shard(&self, _request: &Request) -> StorePart {
        StorePart::One(0)
    }

    fn accepts(&self, _quota: &Quota) -> Result<(), QuotaError> {
        Ok(())
    }

    /// Forgets these keys. One without a state of its own may share an overflow state, which is left as it is,
    /// and the error says so. In a store that is full, a key that was forgotten is as any that was not used for long: it
    /// may go on from an overflow state.
    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        self.reset_now(keys)
    }

    async fn ready(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn locality(&self) -> Locality {
        Locality::InProcess
    }

    fn may_forget(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        let MemoryUsage { keys, shared_states, log_entries, shared_admissions, evictions } = self.usage();
        tell(Figure::new(&metric::MEMORY_KEYS, NAME, keys as u64));
        tell(Figure::new(&metric::MEMORY_SHARED_STATES, NAME, shared_states as u64));
        tell(Figure::new(&metric::MEMORY_LOG_ENTRIES, NAME, log_entries as u64));
        tell(Figure::new(&metric::MEMORY_SHARED_ADMISSIONS, NAME, shared_admissions));
        tell(Figure::new(&metric::MEMORY_EVICTIONS, NAME, evictions));
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}
