//! One independently locked part of the store.

use super::MemoryUsage;
use super::table::{Name, Slot, Stored, Tables};
use crate::algorithm::{Algorithm, FixedWindow, LeakyBucket, SlidingCounter, SlidingLog, TokenBucket};
use crate::decision::Decision;
use crate::quota::Quota;
use crate::time::Timestamp;

/// One check, on its way through a shard.
#[derive(Clone, Copy)]
pub(super) struct Visit<'a> {
    pub(super) name: Name<'a>,
    pub(super) hash: u64,
    pub(super) quota: &'a Quota,
    pub(super) cost: u64,
    pub(super) now: Timestamp,
    /// Whether what is reset by `now` may be dropped.
    pub(super) may_drop: bool,
}

/// States of their own, and states that are shared once there is no room for more.
pub(super) struct Shard {
    own: Tables,
    shared: Tables,
    capacity: usize,
    logs: LogRoom,
    /// The number of keys from which on the next newcomer looks for states to drop, ...
    sweep_at: usize,
    /// ... and the instant.
    next_sweep: u64,
    hasher: ahash::RandomState,
}

/// Entries of logs, beyond one per log.
struct LogRoom {
    used: usize,
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
            Algorithm::TokenBucket => {
                type $A = TokenBucket;
                $body
            }
            Algorithm::LeakyBucket => {
                type $A = LeakyBucket;
                $body
            }
            Algorithm::FixedWindow => {
                type $A = FixedWindow;
                $body
            }
            Algorithm::SlidingLog => {
                type $A = SlidingLog;
                $body
            }
            Algorithm::SlidingCounter => {
                type $A = SlidingCounter;
                $body
            }
        }
    };
}

impl Shard {
    pub(super) fn new(capacity: usize, log_entries: usize, hasher: ahash::RandomState) -> Self {
        Self {
            own: Tables::default(),
            shared: Tables::default(),
            capacity,
            logs: LogRoom { used: 0, max: log_entries },
            sweep_at: FEW_KEYS.min(capacity),
            next_sweep: 0,
            hasher,
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

    /// Whether two visits, neither with a state of its own, would take from one shared state.
    pub(super) fn would_share(&mut self, a: &Visit<'_>, b: &Visit<'_>) -> bool {
        let newcomer = |shard: &mut Self, v: &Visit<'_>| !shard.has_own(v.name, v.hash);
        a.shared_name().as_name() == b.shared_name().as_name()
            && self.own.len() >= self.capacity
            && newcomer(self, a)
            && newcomer(self, b)
    }

    /// Forgets a key; whether it is so, which it is not for one that may live on in an overflow state.
    pub(super) fn reset(&mut self, name: Name<'_>, hash: u64) -> bool {
        with_algorithm!(name.keyspace.algorithm(), A => {
            match A::table(&mut self.own).remove(name, hash) {
                Some(slot) => {
                    self.logs.used -= A::weight(slot.state());
                    true
                }
                None => !A::table(&mut self.shared).names().any(|shared| {
                    shared.keyspace == name.keyspace && shared.bytes.last() == Some(&shared_index(hash))
                }),
            }
        })
    }

    pub(super) fn usage(&self) -> MemoryUsage {
        MemoryUsage { keys: self.own.len(), shared_states: self.shared.len(), log_entries: self.logs.used }
    }

    fn has_own(&mut self, name: Name<'_>, hash: u64) -> bool {
        with_algorithm!(name.keyspace.algorithm(), A => A::table(&mut self.own).find(name, hash).is_some())
    }

    #[inline]
    fn decide_by<A: Stored>(&mut self, visit: &Visit<'_>) -> Decision {
        match A::table(&mut self.own).find(visit.name, visit.hash) {
            Some(slot) => self.logs.step::<A>(slot, visit),
            None => self.decide_newcomer::<A>(visit),
        }
    }

    /// A key without a state of its own goes on from the state that it may have shared, and gets its own if
    /// there is room.
    #[cold]
    #[inline(never)]
    fn decide_newcomer<A: Stored>(&mut self, visit: &Visit<'_>) -> Decision {
        let has_room = self.has_room(visit);
        let shared_name = visit.shared_name();
        let shared_hash = self.hasher.hash_one(shared_name.as_name());
        let shared = A::table(&mut self.shared).find(shared_name.as_name(), shared_hash);
        let copy = match shared {
            Some(slot) if !has_room => return self.logs.step::<A>(slot, visit),
            Some(slot) => slot.state().clone(),
            None => A::State::default(),
        };
        let mut slot = A::Slot::new(copy, 0);
        self.logs.used += A::weight(slot.state());
        let decision = self.logs.step::<A>(&mut slot, visit);
        if !decision.allowed || visit.cost == 0 {
            self.logs.used -= A::weight(slot.state());
            return decision;
        }
        let hasher = |name: Name<'_>| self.hasher.hash_one(name);
        if has_room {
            A::table(&mut self.own).insert(visit.name, visit.hash, slot, hasher);
        } else {
            A::table(&mut self.shared).insert(shared_name.as_name(), shared_hash, slot, hasher);
        }
        decision
    }

    fn preview_by<A: Stored>(&mut self, visit: &Visit<'_>, earlier: u64) -> Decision {
        let &Visit { name, hash, quota, now, cost, .. } = visit;
        let joint = if cost == 0 { 0 } else { cost.saturating_add(earlier) };
        let look = |state: &A::State| A::decide(&A::read(state, quota, joint, now), quota, joint, now);
        if let Some(slot) = A::table(&mut self.own).find(name, hash) {
            return look(slot.state());
        }
        let shared_name = visit.shared_name();
        let shared_hash = self.hasher.hash_one(shared_name.as_name());
        match A::table(&mut self.shared).find(shared_name.as_name(), shared_hash) {
            Some(slot) => look(slot.state()),
            None => look(&A::State::default()),
        }
    }

    /// Whether a newcomer gets a state of its own. Drops reset states when there are twice as many keys as
    /// stayed the last time, and after a pause, so that it costs a newcomer a constant time.
    fn has_room(&mut self, visit: &Visit<'_>) -> bool {
        let now = visit.now.as_micros();
        if self.own.len() >= self.sweep_at && visit.may_drop && now >= self.next_sweep {
            let hasher = |name: Name<'_>| self.hasher.hash_one(name);
            let used = &mut self.logs.used;
            self.own.sweep(now, hasher, |weight| *used -= weight);
            self.shared.sweep(now, hasher, |weight| *used -= weight);
            let keys = self.own.len();
            self.sweep_at = (2 * keys).max(FEW_KEYS).min(self.capacity);
            self.next_sweep = now.saturating_add(SWEEP_PAUSE.saturating_mul(keys as u64));
        }
        self.own.len() < self.capacity
    }
}

impl LogRoom {
    /// A step on a slot whose weight is counted.
    #[inline]
    fn step<A: Stored>(&mut self, slot: &mut A::Slot, visit: &Visit<'_>) -> Decision {
        let before = A::weight(slot.state());
        let decision = A::step(slot.state_mut(), visit.quota, visit.cost, visit.now);
        if decision.allowed && visit.cost > 0 {
            slot.set_reset_at((visit.now + decision.reset_after).as_micros());
            self.used = self.used - before + A::weight(slot.state());
            while self.used > self.max && A::weight(slot.state()) > 0 {
                A::coarsen(slot.state_mut());
                self.used -= 1;
            }
        }
        decision
    }
}

impl Visit<'_> {
    /// The same visit as a peek.
    pub(super) fn peek(&self) -> Self {
        Self { cost: 0, ..*self }
    }

    /// What the overflow state is filed under that this visit shares when there is no room.
    fn shared_name(&self) -> SharedName<'_> {
        let mut bytes = [0; 25];
        let numbers = [self.quota.limit(), self.quota.window_micros(), self.quota.capacity()];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes[24] = shared_index(self.hash);
        SharedName { name: self.name, bytes }
    }
}

/// A quota's numbers, and the index among its overflow states.
struct SharedName<'a> {
    name: Name<'a>,
    bytes: [u8; 25],
}

impl SharedName<'_> {
    fn as_name(&self) -> Name<'_> {
        Name { keyspace: self.name.keyspace, bytes: &self.bytes }
    }
}

/// Which of the overflow states; bits that pick neither the shard nor the slot.
fn shared_index(hash: u64) -> u8 {
    let [_, bits, ..] = hash.to_be_bytes();
    bits % SHARED
}
