//! One independently locked part of the store.

use super::MemoryUsage;
use super::table::{Slot, Stored, Tables};
use crate::algorithm::{Log, SlidingLog};
use crate::decision::Decision;
use crate::key::StorageKey;
use crate::quota::Quota;
use crate::time::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One check, on its way through a shard.
#[derive(Clone, Copy)]
pub(super) struct Visit<'a> {
    pub(super) key: &'a StorageKey,
    pub(super) quota: &'a Quota,
    pub(super) cost: u64,
    pub(super) now: Timestamp,
    /// Whether what is reset by `now` may be dropped.
    pub(super) may_drop: bool,
}

/// What became of a key that was to be forgotten.
#[derive(PartialEq, Eq)]
pub(super) enum Reset {
    /// Its state is as if never used.
    Forgotten,
    /// There was none.
    Unknown,
    /// It may live on in an overflow state.
    Shared,
}

/// States of their own, and states that are shared once there is no room for more.
pub(super) struct Shard {
    own: Tables,
    shared: Tables,
    capacity: usize,
    logs: Arc<LogRoom>,
    /// For how long a state is kept once it is reset, in us.
    grace: u64,
    /// The number of keys from which on the next newcomer looks for states to drop, ...
    sweep_at: usize,
    /// ... and the instant.
    next_sweep: u64,
    /// So far.
    shared_admissions: u64,
    evictions: u64,
}

/// Entries of all the store's logs, beyond one per log.
pub(super) struct LogRoom {
    used: AtomicUsize,
    max: usize,
}

/// Overflow states per shard, rule and quota.
const SHARED: u8 = 16;

/// Below so many keys a shard does not look for states to drop.
const FEW_KEYS: usize = 64;

/// Between two sweeps of a full shard pass so many us per key: a thousand times what looking at a key takes.
const SWEEP_PAUSE: u64 = 10;

/// Runs the body with the type of an algorithm.
macro_rules! with_algorithm {
    ($algorithm:expr, $A:ident => $body:expr) => {
        match $algorithm {
            crate::algorithm::Algorithm::TokenBucket => {
                type $A = crate::algorithm::TokenBucket;
                $body
            }
            crate::algorithm::Algorithm::LeakyBucket => {
                type $A = crate::algorithm::LeakyBucket;
                $body
            }
            crate::algorithm::Algorithm::FixedWindow => {
                type $A = crate::algorithm::FixedWindow;
                $body
            }
            crate::algorithm::Algorithm::SlidingLog => {
                type $A = crate::algorithm::SlidingLog;
                $body
            }
            crate::algorithm::Algorithm::SlidingCounter => {
                type $A = crate::algorithm::SlidingCounter;
                $body
            }
        }
    };
}
pub(super) use with_algorithm;

impl Shard {
    pub(super) fn new(capacity: usize, logs: Arc<LogRoom>, grace: u64) -> Self {
        Self {
            own: Tables::default(),
            shared: Tables::default(),
            capacity,
            logs,
            grace,
            sweep_at: FEW_KEYS.min(capacity),
            next_sweep: 0,
            shared_admissions: 0,
            evictions: 0,
        }
    }

    /// Decides, and takes what is admitted.
    #[inline]
    pub(super) fn decide(&mut self, visit: &Visit<'_>) -> Decision {
        with_algorithm!(visit.quota.algorithm(), A => self.decide_by::<A>(visit))
    }

    /// What [`decide`](Self::decide) would answer after `earlier` was taken from the same state, which is
    /// left as it is.
    pub(super) fn preview(&mut self, visit: &Visit<'_>, earlier: u64) -> Decision {
        with_algorithm!(visit.quota.algorithm(), A => self.preview_by::<A>(visit, earlier))
    }

    /// Whether two visits of a request of so many `checks` may take from one shared state: neither has its own,
    /// and there may not be room for all.
    pub(super) fn may_share(&mut self, a: &Visit<'_>, b: &Visit<'_>, checks: usize) -> bool {
        let newcomer = |shard: &mut Self, v: &Visit<'_>| !shard.has_own(v.key);
        a.shared_key() == b.shared_key()
            && self.own.len().saturating_add(checks) > self.capacity
            && newcomer(self, a)
            && newcomer(self, b)
    }

    /// Forgets a key.
    pub(super) fn reset(&mut self, key: &StorageKey) -> Reset {
        with_algorithm!(key.keyspace().algorithm(), A => self.reset_by::<A>(key))
    }

    fn reset_by<A: Stored>(&mut self, key: &StorageKey) -> Reset {
        let is_its = |(keyspace, shared): (_, &[u8])| {
            keyspace == key.keyspace() && shared.last() == Some(&shared_index(key.hashed()))
        };
        let shares = A::table(&mut self.shared).keys().any(is_its);
        let own = A::table(&mut self.own);
        let Some(slot) = own.find(key) else {
            return if shares { Reset::Shared } else { Reset::Unknown };
        };
        self.logs.count::<A>(slot.state(), &A::State::default());
        if shares {
            // Without a slot of its own it would go on from the shared state, as it does once this one, which is
            // as if never used, is dropped for want of room.
            *slot = A::Slot::new(A::State::default(), 0);
        } else {
            own.remove(key);
        }
        Reset::Forgotten
    }

    /// Adds what is here.
    pub(super) fn count(&self, usage: &mut MemoryUsage) {
        usage.keys += self.own.len();
        usage.shared_states += self.shared.len();
        usage.shared_admissions += self.shared_admissions;
        usage.evictions += self.evictions;
    }

    fn has_own(&mut self, key: &StorageKey) -> bool {
        with_algorithm!(key.keyspace().algorithm(), A => A::table(&mut self.own).find(key).is_some())
    }

    #[inline]
    fn decide_by<A: Stored>(&mut self, visit: &Visit<'_>) -> Decision {
        match self.decide_known::<A>(visit) {
            Some(decision) => decision,
            None => self.decide_newcomer::<A>(visit),
        }
    }

    /// Decides for a key that has a state of its own.
    #[inline(always)]
    pub(super) fn decide_known<A: Stored>(&mut self, visit: &Visit<'_>) -> Option<Decision> {
        let slot = A::table(&mut self.own).find(visit.key)?;
        Some(self.logs.step::<A>(slot, visit))
    }

    /// A key without a state of its own goes on from the state that it may have shared, and gets its own if
    /// there is room. What is not admitted copies nothing.
    #[cold]
    #[inline(never)]
    pub(super) fn decide_newcomer<A: Stored>(&mut self, visit: &Visit<'_>) -> Decision {
        let decision = self.preview_by::<A>(visit, 0);
        if !decision.allowed || visit.cost == 0 {
            return decision;
        }
        self.sweep(visit);
        let has_room = self.own.len() < self.capacity;
        self.shared_admissions += u64::from(!has_room);
        let shared_key = visit.shared_key();
        let copy = match A::table(&mut self.shared).find(&shared_key) {
            Some(slot) if !has_room => return self.logs.step::<A>(slot, visit),
            Some(slot) => slot.state().clone(),
            None => A::State::default(),
        };
        let mut slot = A::Slot::new(copy, 0);
        self.logs.count::<A>(&A::State::default(), slot.state());
        let decision = self.logs.step::<A>(&mut slot, visit);
        if has_room {
            A::table(&mut self.own).insert(visit.key, slot);
        } else {
            A::table(&mut self.shared).insert(&shared_key, slot);
        }
        decision
    }

    fn preview_by<A: Stored>(&mut self, visit: &Visit<'_>, earlier: u64) -> Decision {
        let &Visit { key, quota, now, cost, .. } = visit;
        let joint = if cost == 0 { 0 } else { cost.saturating_add(earlier) };
        let look = |state: &A::State| A::decide(&A::read(state, quota, joint, now), quota, joint, now);
        if let Some(slot) = A::table(&mut self.own).find(key) {
            return look(slot.state());
        }
        match A::table(&mut self.shared).find(&visit.shared_key()) {
            Some(slot) => look(slot.state()),
            None => look(&A::State::default()),
        }
    }

    /// Drops reset states when there are twice as many keys as stayed the last time, and after a pause, so that it
    /// costs a newcomer a constant time.
    pub(super) fn sweep(&mut self, visit: &Visit<'_>) {
        let now = visit.now.as_micros();
        if self.own.len() >= self.sweep_at && visit.may_drop && now >= self.next_sweep {
            let forgotten = |log: &Log| self.logs.count::<SlidingLog>(log, &Log::default());
            let reset_by = now.saturating_sub(self.grace);
            let before = self.own.len() + self.shared.len();
            self.own.sweep(reset_by, forgotten);
            self.shared.sweep(reset_by, forgotten);
            let keys = self.own.len();
            self.evictions += (before - keys - self.shared.len()) as u64;
            self.sweep_at = (2 * keys).max(FEW_KEYS).min(self.capacity);
            self.next_sweep = now.saturating_add(SWEEP_PAUSE.saturating_mul(keys as u64));
        }
    }
}

impl LogRoom {
    pub(super) fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// A step on a slot whose weight is counted.
    #[inline(always)]
    fn step<A: Stored>(&self, slot: &mut A::Slot, visit: &Visit<'_>) -> Decision {
        let before = A::weight(slot.state());
        let decision = A::step(slot.state_mut(), visit.quota, visit.cost, visit.now);
        if decision.allowed && visit.cost > 0 {
            let reset_after = u64::try_from(decision.reset_after.as_micros()).unwrap_or(u64::MAX);
            slot.set_reset_at(visit.now.as_micros().saturating_add(reset_after));
            let after = A::weight(slot.state());
            if after != before {
                self.changed(before, after);
                while self.used() > self.max && A::weight(slot.state()) > 0 {
                    A::coarsen(slot.state_mut());
                    self.changed(1, 0);
                }
            }
        }
        decision
    }

    /// Counts a state that has taken another's place.
    fn count<A: Stored>(&self, before: &A::State, after: &A::State) {
        self.changed(A::weight(before), A::weight(after));
    }

    fn changed(&self, before: usize, after: usize) {
        if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

impl Visit<'_> {
    /// The same visit as a peek.
    pub(super) fn peek(&self) -> Self {
        Self { cost: 0, ..*self }
    }

    /// What the overflow state is filed under that this visit shares when there is no room: the quota's numbers, and
    /// the index among its overflow states.
    fn shared_key(&self) -> StorageKey {
        let mut bytes = [0; 25];
        let numbers = [self.quota.limit(), self.quota.window_micros(), self.quota.capacity()];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes[24] = shared_index(self.key.hashed());
        self.key.keyspace().key(&bytes)
    }
}

/// Which of the overflow states; bits that pick neither the shard nor the slot.
fn shared_index(hash: u64) -> u8 {
    let [_, bits, ..] = hash.to_be_bytes();
    bits % SHARED
}
