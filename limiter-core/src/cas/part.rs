//! The keys of one part of a store that anybody asks for, and which of them leaves next.

use super::config::{CasConfig, CasUsage};
use super::round::{Answer, Known, Waiter, Wish};
use crate::error::BackendError;
use crate::key::StorageKey;
use crate::request::{Check, Request};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// One lock decides what is sent and what is taken out; it is held for a few instructions per request, and never while
/// a state is decided upon.
#[derive(Default)]
pub(super) struct Part {
    queues: Mutex<Queues>,
}

/// A key that is here and does not rest is on its way: in `reads` or `uses`, aboard a trip, or asleep.
#[derive(Default)]
struct Queues {
    keys: HashMap<StorageKey, Slot, ahash::RandomState>,
    /// Keys to be read.
    reads: VecDeque<StorageKey>,
    /// Keys whose state is known, to be decided upon and written.
    uses: VecDeque<(StorageKey, Known)>,
    /// Resting keys, the longest first, with the stamp of their rest.
    resting: VecDeque<(StorageKey, u64)>,
    resting_keys: usize,
    next: u64,
    /// Requests that wait.
    waiting: usize,
    /// Tasks that carry trips.
    workers: usize,
    reads_were_last: bool,
}

struct Slot {
    /// In the order of their numbers. Taken out at either end above all: deadlines pass in the order in which callers
    /// came, or together.
    waiting: VecDeque<Waiter>,
    rest: Option<Rest>,
    /// Rounds in a row that another process was faster.
    conflicts: u32,
    /// Rounds in a row that none was, and how many of them it takes for the key to be this process's.
    calm: u32,
    calm_needed: u32,
}

/// A key that nobody waits for; what is known of it if it is this process's.
struct Rest {
    known: Option<Known>,
    stamp: u64,
    since: Instant,
}

/// The most rounds without another process's write after which a key is taken to be this one's; fewer at first, and
/// four times as many each time that it was not.
const CALM: u32 = 64;

/// The most writes in a row on the version of the one before.
const STREAK: u32 = 8;

/// What a caller that waits is told. Its sender dropped: the task that carried it was.
pub(super) enum Reply {
    Answer(Result<Answer, BackendError>),
    /// The task that was to carry it is gone, and it was not sent.
    Again,
}

/// Why a request may not wait; nothing of it was sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    Full,
    NoRuntime,
}

/// What leaves together.
pub(super) enum Trip {
    /// Keys to be read, for those who came before this number.
    Reads(Vec<StorageKey>, u64),
    /// Known keys, and who waits for each.
    Uses(Vec<(StorageKey, Known, VecDeque<Waiter>)>),
}

/// What became of a key that was aboard.
pub(super) enum Landed {
    /// It was read.
    Read(Known),
    /// It was written.
    Written(Known),
    /// It was not written: these wait again.
    Unwritten(Vec<Waiter>),
    /// Another process wrote it first: these wait again.
    Changed(Vec<Waiter>),
    /// Whoever waits is to be told of this.
    Failed(BackendError),
}

/// What is left to do for a key that has landed.
pub(super) enum Next {
    Nothing,
    /// It is to be woken after this time.
    Sleep(Duration),
    /// These are to be told of this.
    Fail(VecDeque<Waiter>, BackendError),
}

impl Part {
    /// Lets a request of one check wait for its key. With a runtime: a worker is to be started there.
    pub(super) fn enqueue(
        self: &Arc<Self>,
        check: &Check,
        wish: Wish,
        request: &Request,
        config: &CasConfig,
    ) -> Result<(Ticket, oneshot::Receiver<Reply>, Option<Handle>), Refusal> {
        let (reply, receiver) = oneshot::channel();
        let mut queues = self.queues.lock();
        let waiter = Waiter {
            number: queues.next,
            check: check.clone(),
            wish,
            at: request.instant(),
            deadline: request.deadline(),
            reply,
            tries: 0,
            since: None,
        };
        let worker = queues.admit(waiter, config)?;
        let ticket =
            Ticket { part: Arc::clone(self), key: check.key.clone(), number: queues.next, settled: false };
        queues.next += 1;
        queues.waiting += 1;
        Ok((ticket, receiver, worker))
    }

    /// What leaves next; `None`: nothing is to be done, and the worker is counted no more.
    pub(super) fn depart(&self, config: &CasConfig) -> Option<Trip> {
        self.queues.lock().depart(config.max_batch.get())
    }

    /// Puts keys that were aboard where they belong; what is left to do for each.
    pub(super) fn land(
        &self,
        landed: impl IntoIterator<Item = (StorageKey, Landed)>,
        config: &CasConfig,
    ) -> Vec<(StorageKey, Next)> {
        let now = Instant::now();
        let mut queues = self.queues.lock();
        let land = |(key, landed): (StorageKey, Landed)| {
            let next = queues.land(&key, landed, now, config);
            (key, next)
        };
        landed.into_iter().map(land).collect()
    }

    /// A key has slept enough. With a runtime: a worker is to be started there.
    pub(super) fn wake(&self, key: StorageKey, config: &CasConfig) -> Option<Handle> {
        let mut queues = self.queues.lock();
        if queues.keys.get(&key).is_none_or(|slot| slot.waiting.is_empty()) {
            queues.keys.remove(&key);
            return None;
        }
        match queues.worker(config) {
            Ok(worker) => {
                queues.reads.push_back(key);
                worker
            }
            Err(_) => {
                queues.send_again(&key);
                None
            }
        }
    }

    /// A worker is gone, with these keys aboard: those who wait for them look for another, and where it was the last,
    /// so do all whose keys are queued.
    pub(super) fn lost(&self, aboard: &[StorageKey]) {
        let mut queues = self.queues.lock();
        queues.workers -= 1;
        aboard.iter().for_each(|key| queues.send_again(key));
        if queues.workers == 0 {
            let (reads, uses) = (std::mem::take(&mut queues.reads), std::mem::take(&mut queues.uses));
            let queued = reads.into_iter().chain(uses.into_iter().map(|(key, _)| key));
            queued.for_each(|key| queues.send_again(&key));
        }
    }

    /// Forgets what is remembered of keys that nobody waits for.
    pub(super) fn forget(&self, keys: &[StorageKey]) {
        let mut queues = self.queues.lock();
        for key in keys {
            queues.stop_resting(key);
        }
    }

    /// Adds what this part holds.
    pub(super) fn usage(&self, sum: CasUsage) -> CasUsage {
        let queues = self.queues.lock();
        CasUsage {
            queued: sum.queued + queues.waiting,
            busy_keys: sum.busy_keys + queues.keys.len() - queues.resting_keys,
            remembered_keys: sum.remembered_keys + queues.resting_keys,
            ..sum
        }
    }
}

impl Queues {
    /// Puts a newcomer to its key; a worker is to be started if the key was not on its way.
    fn admit(&mut self, waiter: Waiter, config: &CasConfig) -> Result<Option<Handle>, Refusal> {
        let most = config.max_queued.get();
        let busy = self.keys.len() - self.resting_keys;
        // Who gives back has waited before.
        let is_owed = matches!(waiter.wish, Wish::GiveBack(..));
        if self.waiting.max(busy) >= most && !is_owed {
            return Err(Refusal::Full);
        }
        if let Some(slot) = self.keys.get_mut(&waiter.check.key)
            && slot.rest.is_none()
        {
            slot.waiting.push_back(waiter);
            return Ok(None);
        }
        let worker = self.worker(config)?;
        let key = waiter.check.key.clone();
        let slot = self.keys.entry(key.clone()).or_insert_with(Slot::new);
        slot.waiting.push_back(waiter);
        match slot.rest.take() {
            None => self.reads.push_back(key),
            Some(Rest { known, since, .. }) => {
                self.resting_keys -= 1;
                match known.filter(|_| since.elapsed() <= config.remember_for) {
                    Some(known) => self.uses.push_back((key, known)),
                    None => self.reads.push_back(key),
                }
            }
        }
        Ok(worker)
    }

    /// Sees to it that what is queued will leave: by a worker that there is, or one to be started.
    fn worker(&mut self, config: &CasConfig) -> Result<Option<Handle>, Refusal> {
        let free = self.workers < config.slots.get();
        let runtime = if free { Handle::try_current().ok() } else { None };
        if runtime.is_some() {
            self.workers += 1;
        } else if self.workers == 0 {
            return Err(Refusal::NoRuntime);
        }
        Ok(runtime)
    }

    fn depart(&mut self, most: usize) -> Option<Trip> {
        loop {
            // In turns, so that neither keeps the other waiting.
            let reads = !self.reads.is_empty() && (self.uses.is_empty() || !self.reads_were_last);
            self.reads_were_last = reads;
            let trip = if reads { self.depart_reads(most) } else { self.depart_uses(most) };
            if trip.is_some() {
                return trip;
            }
            if self.reads.is_empty() && self.uses.is_empty() {
                self.workers -= 1;
                // A flood leaves no room behind that is not used.
                self.reads.shrink_to(most);
                self.uses.shrink_to(most);
                if self.keys.capacity() / 8 > self.keys.len().max(most) {
                    self.keys.shrink_to(2 * self.keys.len());
                }
                return None;
            }
        }
    }

    fn depart_reads(&mut self, most: usize) -> Option<Trip> {
        let mut keys = Vec::with_capacity(self.reads.len().min(most));
        while keys.len() < most
            && let Some(key) = self.reads.pop_front()
        {
            if self.keys.get(&key).is_some_and(|slot| !slot.waiting.is_empty()) {
                keys.push(key);
            } else {
                self.keys.remove(&key);
            }
        }
        (!keys.is_empty()).then_some(Trip::Reads(keys, self.next))
    }

    fn depart_uses(&mut self, most: usize) -> Option<Trip> {
        let mut uses = Vec::with_capacity(self.uses.len().min(most));
        while uses.len() < most
            && let Some((key, known)) = self.uses.pop_front()
        {
            let waiting = self.keys.get_mut(&key).map(|slot| std::mem::take(&mut slot.waiting));
            match waiting {
                Some(waiting) if !waiting.is_empty() => {
                    self.waiting -= waiting.len();
                    uses.push((key, known, waiting));
                }
                _ => drop(self.keys.remove(&key)),
            }
        }
        (!uses.is_empty()).then_some(Trip::Uses(uses))
    }

    fn land(&mut self, key: &StorageKey, landed: Landed, now: Instant, config: &CasConfig) -> Next {
        let Some(slot) = self.keys.get_mut(key) else { return Next::Nothing };
        match landed {
            Landed::Read(known) => self.uses.push_back((key.clone(), known)),
            Landed::Written(known) => {
                slot.conflicts = 0;
                slot.calm = slot.calm.saturating_add(1);
                let is_ours = slot.calm >= slot.calm_needed;
                let known =
                    Some(known).filter(|known| is_ours && known.version.is_some() && known.streak < STREAK);
                match (slot.waiting.is_empty(), known) {
                    (true, known) => self.rest(key, known, now, config),
                    (false, Some(known)) => self.uses.push_back((key.clone(), known)),
                    (false, None) => self.reads.push_back(key.clone()),
                }
            }
            Landed::Unwritten(waiters) => {
                self.waiting += slot.put_back(waiters);
                self.read(key);
            }
            Landed::Changed(waiters) => {
                slot.conflicts = slot.conflicts.saturating_add(1);
                slot.calm = 0;
                slot.calm_needed = (4 * slot.calm_needed).min(CALM);
                let conflicts = slot.conflicts;
                self.waiting += slot.put_back(waiters);
                if conflicts == 1 || slot.waiting.is_empty() {
                    self.read(key);
                } else {
                    return Next::Sleep(backoff(conflicts));
                }
            }
            Landed::Failed(error) => {
                let waiting = std::mem::take(&mut slot.waiting);
                self.waiting -= waiting.len();
                self.keys.remove(key);
                return Next::Fail(waiting, error);
            }
        }
        Next::Nothing
    }

    /// A key that is to be read, if anybody waits for it.
    fn read(&mut self, key: &StorageKey) {
        if self.keys.get(key).is_some_and(|slot| !slot.waiting.is_empty()) {
            self.reads.push_back(key.clone());
        } else {
            self.keys.remove(key);
        }
    }

    fn rest(&mut self, key: &StorageKey, known: Option<Known>, now: Instant, config: &CasConfig) {
        let most = config.remembered;
        let stamp = self.next;
        self.next += 1;
        if let Some(slot) = self.keys.get_mut(key) {
            let known = known.filter(|known| known.state.is_small());
            slot.rest = Some(Rest { known, stamp, since: now });
            self.resting_keys += 1;
            self.resting.push_back((key.clone(), stamp));
        }
        // A key that has rested before is still among them with that stamp.
        while (self.resting_keys > most || self.resting.len() > 2 * most)
            && let Some((longest, stamp)) = self.resting.pop_front()
        {
            let rest = self.keys.get(&longest).and_then(|slot| slot.rest.as_ref());
            if rest.is_some_and(|rest| rest.stamp == stamp) {
                self.stop_resting(&longest);
            }
        }
    }

    fn stop_resting(&mut self, key: &StorageKey) {
        if self.keys.get(key).is_some_and(|slot| slot.rest.is_some()) {
            self.keys.remove(key);
            self.resting_keys -= 1;
        }
    }

    /// Tells those who wait for a key to look for another task.
    fn send_again(&mut self, key: &StorageKey) {
        let waiting = self.keys.remove(key).map(|slot| slot.waiting).unwrap_or_default();
        self.waiting -= waiting.len();
        for waiter in waiting {
            let _gone = waiter.reply.send(Reply::Again);
        }
    }
}

impl Slot {
    fn new() -> Self {
        Self { waiting: VecDeque::with_capacity(1), rest: None, conflicts: 0, calm: 1, calm_needed: 1 }
    }

    /// Lets these wait again, before those who came later; how many they are.
    fn put_back(&mut self, waiters: Vec<Waiter>) -> usize {
        let count = waiters.len();
        waiters.into_iter().rev().for_each(|waiter| self.waiting.push_front(waiter));
        count
    }
}

/// Twice as long each time, up to 32 ms, and any part of it.
fn backoff(conflicts: u32) -> Duration {
    let longest = Duration::from_millis(1 << conflicts.saturating_sub(1).min(5));
    longest.mul_f64(fastrand::f64())
}

/// A request that waits. Dropped before its answer came, it is taken out if it was not sent.
#[must_use]
pub(super) struct Ticket {
    part: Arc<Part>,
    key: StorageKey,
    number: u64,
    settled: bool,
}

impl Ticket {
    /// Takes the request out; `false`: it was sent.
    pub(super) fn withdraw(&mut self) -> bool {
        let mut queues = self.part.queues.lock();
        let waiting = queues.keys.get_mut(&self.key).map(|slot| &mut slot.waiting);
        let found = waiting.and_then(|waiting| {
            let place = waiting.binary_search_by_key(&self.number, |waiter| waiter.number).ok()?;
            waiting.remove(place)
        });
        queues.waiting -= usize::from(found.is_some());
        self.settled = found.is_some();
        self.settled
    }

    /// The answer came.
    pub(super) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.withdraw();
        }
    }
}
