use super::config::{CasConfig, CasUsage};
use super::part::{Part, Refusal, Reply, Ticket};
use super::round::{Answer, Wish};
use super::state::State;
use super::{CasStore, trip};
use crate::algorithm::Reading;
use crate::backend::{Backend, Locality, Shard};
use crate::batch;
use crate::decision::Verdict;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::key::StorageKey;
use crate::metric::{self, Figure};
use crate::parts::Parts;
use crate::quota::{Quota, QuotaError};
use crate::request::{Check, Request};
use crate::take_and_give_back::{self, KeyByKey};
use crate::time::Timestamp;
use async_trait::async_trait;
use futures_util::future::join_all;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

/// Limits in a store with compare-and-swap: read the state, decide, write it if nobody else did meanwhile. Clones
/// share one.
///
/// Requests for one key are combined in this process: one swap per key is on its way, and one write carries all
/// decisions that came until it left. What comes meanwhile goes with the next, on the version that the write
/// returned, so that a busy key costs one trip per round. Keys wait for each other's trips only where more keys are
/// busy than [`CasConfig::slots`] and [`CasConfig::max_batch`] can carry; a trip has reads or writes of many keys.
/// Nothing is to be put around it that gathers requests ([`Coalesce`](crate::Coalesce)).
///
/// # Atomicity
/// A request of one check is decided in one step. One of several is looked at as a whole, then taken key by key in
/// one order, and given back if a later key denies: it may deny too much for a moment, and never admits too much.
/// Denials and peeks write nothing; they answer by a state that was read after they came.
///
/// # Time
/// This process's clock, [`Request::now`]: instances whose clocks differ by a second are looser or stricter by what
/// a second refills. Time seen by a key never runs backwards.
///
/// # Deadlines
/// What still waits at its [`Request::deadline`] is taken out, under the lock that decides what is sent, and answered
/// `NotApplied`. What is on its way is answered when the store answers.
///
/// # Contention
/// Where another process was faster, the round starts again, after a jittered wait from the second time on. A key that
/// others write gets no version from the write before, and every eighth round of one that nobody seems to write reads
/// again, so that who holds a version keeps nobody out.
///
/// # Memory
/// At most [`CasConfig::max_queued`] requests wait per part, and [`CasConfig::remember`] keys without any keep
/// their version for a moment. Parts above 1,024 share the queues of lower ones.
///
/// # Runtime
/// Trips, resets and questions whether the store is ready run in tasks of their own, on the tokio runtime of one of the
/// callers; a caller that is dropped strands nobody. If that runtime shuts down, those who wait start another on theirs.
/// As with any spawned task, a current-thread runtime has to be kept running.
///
/// # Errors
/// Besides the store's:
/// - `Contention`, not applied: [`CasConfig::attempts`] or [`CasConfig::patience`] were used up; never an allow;
/// - `Timeout`, not applied: still waiting at the deadline;
/// - `Overloaded`, not applied: too many requests wait;
/// - `Config`, not applied: there is no tokio runtime, or the state would be longer than the store can hold;
/// - `Unexpected`, unknown: the runtime ended or the store panicked while a write was on its way.
///
/// # Panics
/// A request with a deadline waits in a tokio runtime without timers.
///
/// # Cancel safety
/// A request that is dropped while it waits is taken out and never sent; one that was sent may be recorded, once. A reset
/// whose caller goes away is carried out.
pub struct CasBackend<S> {
    inner: Arc<Inner<S>>,
}

pub(super) struct Inner<S> {
    pub(super) store: S,
    pub(super) name: &'static str,
    pub(super) config: CasConfig,
    parts: Parts<Part>,
    pub(super) counts: Counts,
}

/// What all parts count together.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) corrupt: AtomicU64,
    pub(super) trips: AtomicU64,
    pub(super) swaps: AtomicU64,
    pub(super) conflicts: AtomicU64,
}

/// How often a request that lost the task which was to carry it looks for another: each time a runtime has shut down.
const RUNTIMES: usize = 3;

impl<S: CasStore> CasBackend<S> {
    /// Limits in `store`, whose name is for metrics and errors.
    #[must_use]
    pub fn new(name: &'static str, store: S) -> Self {
        Self::with_config(name, store, CasConfig::new())
    }

    /// The same with settings.
    #[must_use]
    pub fn with_config(name: &'static str, store: S, config: CasConfig) -> Self {
        let inner = Inner { store, name, config, parts: Parts::new(), counts: Counts::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.inner.store
    }

    /// What it holds now, and what it has done.
    #[must_use]
    pub fn usage(&self) -> CasUsage {
        let Counts { corrupt, trips, swaps, conflicts } = &self.inner.counts;
        let usage = CasUsage {
            trips: trips.load(Ordering::Relaxed),
            swaps: swaps.load(Ordering::Relaxed),
            conflicts: conflicts.load(Ordering::Relaxed),
            corrupt_states: corrupt.load(Ordering::Relaxed),
            ..CasUsage::default()
        };
        self.inner.parts.known().fold(usage, |sum, (_, part)| part.usage(sum))
    }

    /// Starts every request of a batch, so that each key sees its requests in order: those of one check wait in their
    /// keys' queues, and what shares a key with a request of several waits until that one is done.
    async fn start(&self, batch: &[Request]) -> Vec<Going> {
        let mut going: Vec<Going> = Vec::with_capacity(batch.len());
        let mut taken: HashSet<&StorageKey> = HashSet::new();
        for request in batch {
            if !taken.is_empty() && request.checks().iter().any(|check| taken.contains(&check.key)) {
                for earlier in &mut going {
                    if let Going::Several(verdict) = earlier {
                        *earlier = Going::Done(verdict.await);
                    }
                }
                taken.clear();
            }
            going.push(match request.checks() {
                [check] => Going::One(self.inner.enqueue(check, Wish::Take, request)),
                checks => {
                    taken.extend(checks.iter().map(|check| &check.key));
                    Going::Several(Box::pin(take_and_give_back::start(
                        Keys(Arc::clone(&self.inner)),
                        request,
                    )))
                }
            });
        }
        going
    }

    /// The verdict on a request that was started.
    async fn end(&self, going: Going, request: &Request) -> Result<Verdict, BackendError> {
        match (going, request.checks()) {
            (Going::One(waiting), [check]) => {
                let Answer { now, reading, .. } =
                    self.inner.answer(waiting, check, Wish::Take, request).await?;
                Reading::verdict(request.checks(), &[reading], now)
                    .ok_or_else(|| unanswered(self.inner.name, "decide"))
            }
            (Going::One(_), _) => Err(unanswered(self.inner.name, "decide")),
            (Going::Several(verdict), _) => verdict.await,
            (Going::Done(verdict), _) => verdict,
        }
    }
}

impl<S> Clone for CasBackend<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

/// A request of a batch on its way.
enum Going {
    One(Result<Waiting, Refusal>),
    Several(Pin<Box<dyn Future<Output = Result<Verdict, BackendError>> + Send>>),
    Done(Result<Verdict, BackendError>),
}

/// A request of one check on its key.
struct Waiting {
    ticket: Ticket,
    reply: oneshot::Receiver<Reply>,
}

impl<S: CasStore> Inner<S> {
    fn part(&self, key: &StorageKey) -> &Arc<Part> {
        self.parts.get(self.store.part(key), |_| Part::default())
    }

    /// Lets a request of one check wait on its key; it is on its way from here on.
    fn enqueue(self: &Arc<Self>, check: &Check, wish: Wish, request: &Request) -> Result<Waiting, Refusal> {
        let part = self.part(&check.key);
        let (ticket, reply, worker) = part.enqueue(check, wish, request, &self.config)?;
        if let Some(runtime) = worker {
            // Not under the part's lock: a runtime that has shut down drops the task here.
            trip::start(&runtime, Arc::clone(self), Arc::clone(part));
        }
        Ok(Waiting { ticket, reply })
    }

    /// The answer to what was enqueued.
    async fn answer(
        self: &Arc<Self>,
        mut waiting: Result<Waiting, Refusal>,
        check: &Check,
        wish: Wish,
        request: &Request,
    ) -> Result<Answer, BackendError> {
        for _ in 0..RUNTIMES {
            let Waiting { mut ticket, mut reply } = waiting.map_err(|refusal| self.refused(refusal))?;
            // What is not waited for by a timer is still not sent late.
            let replied = match request.deadline().filter(|_| Handle::try_current().is_ok()) {
                None => (&mut reply).await,
                Some(deadline) => match timeout_at(deadline, &mut reply).await {
                    Ok(replied) => replied,
                    Err(_) if ticket.withdraw() => return Err(late(self.name)),
                    Err(_) => (&mut reply).await,
                },
            };
            ticket.settle();
            match replied {
                Ok(Reply::Answer(answer)) => return answer,
                Ok(Reply::Again) => waiting = self.enqueue(check, wish, request),
                Err(_) => return Err(lost(self.name, "decide")),
            }
        }
        Err(self.refused(Refusal::NoRuntime))
    }

    fn refused(&self, refusal: Refusal) -> BackendError {
        match refusal {
            Refusal::Full => full(self.name),
            Refusal::NoRuntime => no_runtime(self.name, "decide"),
        }
    }

    async fn reset(&self, keys: Vec<StorageKey>) -> Result<(), BackendError> {
        let mut parts: BTreeMap<u32, Vec<StorageKey>> = BTreeMap::new();
        for key in keys {
            parts.entry(self.store.part(&key)).or_default().push(key);
        }
        let deletes = parts.into_values().map(|mut keys| async {
            let mut seen = HashSet::new();
            keys.retain(|key| seen.insert(key.clone()));
            match keys.first() {
                Some(key) => self.delete(self.part(key), keys).await,
                None => Ok(()),
            }
        });
        join_all(deletes).await.into_iter().collect()
    }

    async fn delete(&self, part: &Part, keys: Vec<StorageKey>) -> Result<(), BackendError> {
        let mut done = Ok(());
        for keys in keys.chunks(self.config.max_batch.get()) {
            part.forget(keys);
            let deleted = self.store.delete(keys).await;
            let missing = keys.len().saturating_sub(deleted.len());
            let missing = (0..missing).map(|_| Err(unanswered(self.name, "reset")));
            done = deleted.into_iter().chain(missing).fold(done, Result::and);
        }
        done
    }
}

/// The keys of a request of several checks, one by one.
struct Keys<S>(Arc<Inner<S>>);

impl<S: CasStore> Keys<S> {
    async fn one(&self, wish: Wish, request: &Request) -> Result<batch::Answer, BackendError> {
        let [check] = request.checks() else { return Err(unanswered(self.0.name, "decide")) };
        let waiting = self.0.enqueue(check, wish, request);
        let Answer { now, reading, granted } = self.0.answer(waiting, check, wish, request).await?;
        Ok(batch::Answer { now, granted: u64::from(granted), readings: vec![reading] })
    }
}

impl<S: CasStore> KeyByKey for Keys<S> {
    type Answer = batch::Answer;

    fn name(&self) -> &'static str {
        self.0.name
    }

    async fn look(&self, request: &Request) -> Result<batch::Answer, BackendError> {
        self.one(Wish::Look, request).await
    }

    async fn take(&self, request: &Request) -> Result<batch::Answer, BackendError> {
        self.one(Wish::Take, request).await
    }

    async fn give_back(
        &self,
        check: &Check,
        at: Option<Timestamp>,
        taken: &batch::Answer,
    ) -> Result<(), BackendError> {
        let reading = taken.readings.first().ok_or_else(|| unanswered(self.0.name, "decide"))?;
        let wish = Wish::GiveBack(taken.now, *reading);
        self.one(wish, &Request::alone(check, at, None)).await.map(|_answer| ())
    }
}

#[async_trait]
impl<S: CasStore> Backend for CasBackend<S> {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        let going = self.start(batch).await;
        let mut verdicts = Vec::with_capacity(batch.len());
        for (going, request) in going.into_iter().zip(batch) {
            verdicts.push(self.end(going, request).await);
        }
        verdicts
    }

    fn decide_now(&self, _request: &Request) -> Option<Result<Verdict, BackendError>> {
        None
    }

    fn shard(&self, request: &Request) -> Shard {
        let mut parts = request.checks().iter().map(|check| self.inner.store.part(&check.key));
        let first = parts.next().unwrap_or_default();
        if parts.all(|part| part == first) { Shard::One(first) } else { Shard::Many }
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        let (needed, most) = (State::most_bytes(quota), self.inner.store.most_bytes());
        if needed <= most {
            return Ok(());
        }
        Err(QuotaError::Store {
            store: self.inner.name,
            quota: quota.to_string(),
            reason: format!("its state can have {needed} bytes, above {most}, the most of a value"),
        })
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        let (inner, keys) = (Arc::clone(&self.inner), keys.to_vec());
        apart(self.inner.name, "reset", async move { inner.reset(keys).await }).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        let inner = Arc::clone(&self.inner);
        apart(self.inner.name, "ready", async move { inner.store.ready().await }).await
    }

    fn locality(&self) -> Locality {
        Locality::Combining
    }

    fn may_forget(&self) -> bool {
        self.inner.store.may_forget()
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        let CasUsage { queued, swaps, conflicts, corrupt_states, .. } = self.usage();
        tell(Figure::new(&metric::QUEUED_REQUESTS, self.inner.name, queued as u64));
        tell(Figure::new(&metric::CAS_TRIES, self.inner.name, swaps + conflicts));
        tell(Figure::new(&metric::CAS_CONFLICTS, self.inner.name, conflicts));
        tell(Figure::new(&metric::CORRUPT_STATES, self.inner.name, corrupt_states));
    }

    fn name(&self) -> &'static str {
        self.inner.name
    }
}

/// Runs what calls the store in a task of its own: a caller that goes away cancels none of it midway.
async fn apart(
    name: &'static str,
    operation: &'static str,
    work: impl Future<Output = Result<(), BackendError>> + Send + 'static,
) -> Result<(), BackendError> {
    let runtime = Handle::try_current().map_err(|_none| no_runtime(name, operation))?;
    runtime.spawn(work).await.unwrap_or_else(|_lost| Err(lost(name, operation)))
}

impl<S> fmt::Debug for CasBackend<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CasBackend")
            .field("store", &self.inner.name)
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

pub(super) fn late(backend: &'static str) -> BackendError {
    let message = "still waiting at the deadline";
    BackendError::new(ErrorKind::Timeout, Effect::NotApplied, backend, "decide", message)
}

pub(super) fn contention(backend: &'static str, attempts: u32) -> BackendError {
    let message = format!("others wrote the key first, {attempts} times");
    BackendError::new(ErrorKind::Contention, Effect::NotApplied, backend, "decide", message)
}

pub(super) fn too_long(backend: &'static str, bytes: u64, most: u64) -> BackendError {
    let message = format!("the state would have {bytes} bytes, above {most}, the most of a value");
    BackendError::new(ErrorKind::Config, Effect::NotApplied, backend, "decide", message)
}

pub(super) fn unread(backend: &'static str) -> BackendError {
    let message = "the store left out what it read";
    BackendError::new(ErrorKind::Unexpected, Effect::NotApplied, backend, "decide", message)
}

pub(super) fn unanswered(backend: &'static str, operation: &'static str) -> BackendError {
    let message = "the store left out an answer";
    BackendError::new(ErrorKind::Unexpected, Effect::Unknown, backend, operation, message)
}

fn full(backend: &'static str) -> BackendError {
    let message = "too many requests wait";
    BackendError::new(ErrorKind::Overloaded, Effect::NotApplied, backend, "decide", message)
}

fn no_runtime(backend: &'static str, operation: &'static str) -> BackendError {
    let message = "a running tokio runtime is needed, and there is none";
    BackendError::new(ErrorKind::Config, Effect::NotApplied, backend, operation, message)
}

fn lost(backend: &'static str, operation: &'static str) -> BackendError {
    let message = "the task that carried the request ended with its runtime, or the store panicked";
    BackendError::new(ErrorKind::Unexpected, Effect::Unknown, backend, operation, message)
}
