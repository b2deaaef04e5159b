//! Tables of states by name, one per kind of state.

use super::entry::{CacheLine, Entry};
use crate::algorithm::{
    Bucket, Counter, FixedWindow, LeakyBucket, Log, SlidingCounter, SlidingLog, Step, TokenBucket, Window,
};
use crate::key::{Keyspace, StorageKey};
use hashbrown::HashTable;

/// What a table keeps of a state, and when it is as if never used.
pub(super) trait Slot {
    type State;
    /// What its entries are aligned to.
    type Align: Default;
    fn new(state: Self::State, reset_at: u64) -> Self;
    fn state(&self) -> &Self::State;
    fn state_mut(&mut self) -> &mut Self::State;
    fn reset_at(&self) -> u64;
    fn set_reset_at(&mut self, reset_at: u64);
}

/// A bucket says by itself when it is reset, which saves an eighth of the memory of a key.
impl Slot for Bucket {
    type State = Self;
    type Align = CacheLine;

    fn new(state: Self, _reset_at: u64) -> Self {
        state
    }

    fn state(&self) -> &Self {
        self
    }

    fn state_mut(&mut self) -> &mut Self {
        self
    }

    fn reset_at(&self) -> u64 {
        Self::reset_at(self)
    }

    fn set_reset_at(&mut self, _reset_at: u64) {}
}

/// A state whose reset depends on the window under which it was written.
pub(super) struct Dated<S> {
    state: S,
    reset_at: u64,
}

impl<S> Slot for Dated<S> {
    type State = S;
    type Align = ();

    fn new(state: S, reset_at: u64) -> Self {
        Self { state, reset_at }
    }

    fn state(&self) -> &S {
        &self.state
    }

    fn state_mut(&mut self) -> &mut S {
        &mut self.state
    }

    fn reset_at(&self) -> u64 {
        self.reset_at
    }

    fn set_reset_at(&mut self, reset_at: u64) {
        self.reset_at = reset_at;
    }
}

/// A table of states of one kind.
pub(super) struct Table<T: Slot> {
    entries: HashTable<Entry<T>>,
}

impl<T: Slot> Default for Table<T> {
    fn default() -> Self {
        Self { entries: HashTable::new() }
    }
}

impl<T: Slot> Table<T> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub(super) fn find(&mut self, key: &StorageKey) -> Option<&mut T> {
        self.entries.find_mut(key.hashed(), |entry| entry.is(key)).map(|entry| &mut entry.slot)
    }

    pub(super) fn insert(&mut self, key: &StorageKey, slot: T) {
        self.entries.insert_unique(key.hashed(), Entry::new(key, slot), Entry::hash);
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (Keyspace, &[u8])> {
        self.entries.iter().map(|entry| (entry.keyspace, entry.bytes()))
    }

    pub(super) fn remove(&mut self, key: &StorageKey) {
        if let Ok(found) = self.entries.find_entry(key.hashed(), |entry| entry.is(key)) {
            found.remove();
        }
    }

    /// Drops what is reset by `now`.
    pub(super) fn sweep(&mut self, now: u64, mut dropped: impl FnMut(&T)) {
        self.entries.retain(|entry| {
            let live = entry.slot.reset_at() > now;
            if !live {
                dropped(&entry.slot);
            }
            live
        });
        if self.entries.capacity() / 4 > self.len() {
            self.entries.shrink_to(2 * self.len(), Entry::hash);
        }
    }
}

/// A table for each kind of state.
#[derive(Default)]
pub(super) struct Tables {
    buckets: Table<Bucket>,
    windows: Table<Dated<Window>>,
    counters: Table<Dated<Counter>>,
    logs: Table<Dated<Log>>,
}

impl Tables {
    pub(super) fn len(&self) -> usize {
        self.buckets.len() + self.windows.len() + self.counters.len() + self.logs.len()
    }

    /// Drops what is reset by `now`; `forgotten` is told each log.
    pub(super) fn sweep(&mut self, now: u64, forgotten: impl Fn(&Log)) {
        self.buckets.sweep(now, |_| {});
        self.windows.sweep(now, |_| {});
        self.counters.sweep(now, |_| {});
        self.logs.sweep(now, |log| forgotten(log.state()));
    }
}

/// An algorithm whose states this store can keep.
pub(super) trait Stored: Step {
    type Slot: Slot<State = Self::State>;

    /// The table of its states.
    fn table(tables: &mut Tables) -> &mut Table<Self::Slot>;

    /// Entries that a state holds beyond its slot.
    fn weight(_state: &Self::State) -> usize {
        0
    }

    /// Makes a state that has weight lighter by one, and stricter.
    fn coarsen(_state: &mut Self::State) {}
}

impl Stored for TokenBucket {
    type Slot = Bucket;

    fn table(tables: &mut Tables) -> &mut Table<Bucket> {
        &mut tables.buckets
    }
}

impl Stored for LeakyBucket {
    type Slot = Bucket;

    fn table(tables: &mut Tables) -> &mut Table<Bucket> {
        &mut tables.buckets
    }
}

impl Stored for FixedWindow {
    type Slot = Dated<Window>;

    fn table(tables: &mut Tables) -> &mut Table<Dated<Window>> {
        &mut tables.windows
    }
}

impl Stored for SlidingCounter {
    type Slot = Dated<Counter>;

    fn table(tables: &mut Tables) -> &mut Table<Dated<Counter>> {
        &mut tables.counters
    }
}

impl Stored for SlidingLog {
    type Slot = Dated<Log>;

    fn table(tables: &mut Tables) -> &mut Table<Dated<Log>> {
        &mut tables.logs
    }

    fn weight(log: &Log) -> usize {
        log.len().saturating_sub(1)
    }

    fn coarsen(log: &mut Log) {
        log.coarsen();
    }
}
