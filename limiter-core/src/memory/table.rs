//! Tables of states by name, one per kind of state.

use crate::algorithm::{
    Bucket, Counter, FixedWindow, LeakyBucket, Log, SlidingCounter, SlidingLog, Step, TokenBucket, Window,
};
use crate::key::Keyspace;
use hashbrown::HashTable;

/// What a state is filed under.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name<'a> {
    pub(super) keyspace: Keyspace,
    pub(super) bytes: &'a [u8],
}

/// What a table keeps of a state, and when it is as if never used.
pub(super) trait Slot {
    type State;
    fn new(state: Self::State, reset_at: u64) -> Self;
    fn state(&self) -> &Self::State;
    fn state_mut(&mut self) -> &mut Self::State;
    fn reset_at(&self) -> u64;
    fn set_reset_at(&mut self, reset_at: u64);
}

/// A bucket says by itself when it is reset, which saves an eighth of the memory of a key.
impl Slot for Bucket {
    type State = Self;

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
pub(super) struct Table<T> {
    entries: HashTable<Entry<T>>,
}

struct Entry<T> {
    keyspace: Keyspace,
    bytes: Box<[u8]>,
    slot: T,
}

impl<T> Entry<T> {
    fn name(&self) -> Name<'_> {
        Name { keyspace: self.keyspace, bytes: &self.bytes }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: HashTable::new() }
    }
}

impl<T: Slot> Table<T> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub(super) fn find(&mut self, name: Name<'_>, hash: u64) -> Option<&mut T> {
        self.entries.find_mut(hash, |entry| entry.name() == name).map(|entry| &mut entry.slot)
    }

    pub(super) fn insert(&mut self, name: Name<'_>, hash: u64, slot: T, hasher: impl Fn(Name<'_>) -> u64) {
        let entry = Entry { keyspace: name.keyspace, bytes: name.bytes.into(), slot };
        self.entries.insert_unique(hash, entry, |entry| hasher(entry.name()));
    }

    pub(super) fn names(&self) -> impl Iterator<Item = Name<'_>> {
        self.entries.iter().map(Entry::name)
    }

    pub(super) fn remove(&mut self, name: Name<'_>, hash: u64) -> Option<T> {
        let found = self.entries.find_entry(hash, |entry| entry.name() == name).ok()?;
        Some(found.remove().0.slot)
    }

    /// Drops what is reset by `now`.
    pub(super) fn sweep(&mut self, now: u64, hasher: impl Fn(Name<'_>) -> u64, mut dropped: impl FnMut(&T)) {
        self.entries.retain(|entry| {
            let live = entry.slot.reset_at() > now;
            if !live {
                dropped(&entry.slot);
            }
            live
        });
        if self.entries.capacity() / 4 > self.len() {
            self.entries.shrink_to(2 * self.len(), |entry| hasher(entry.name()));
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
    pub(super) fn sweep(
        &mut self,
        now: u64,
        hasher: impl Fn(Name<'_>) -> u64 + Copy,
        forgotten: impl Fn(&Log),
    ) {
        self.buckets.sweep(now, hasher, |_| {});
        self.windows.sweep(now, hasher, |_| {});
        self.counters.sweep(now, hasher, |_| {});
        self.logs.sweep(now, hasher, |log| forgotten(log.state()));
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
