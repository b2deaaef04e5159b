use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

/// How a [`CasBackend`](super::CasBackend) goes about its trips, and for how long values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct CasConfig {
    pub(super) slots: NonZeroUsize,
    pub(super) max_batch: NonZeroUsize,
    pub(super) max_queued: NonZeroUsize,
    pub(super) attempts: NonZeroU32,
    pub(super) patience: Duration,
    pub(super) remembered: usize,
    pub(super) remember_for: Duration,
    pub(super) grace: Duration,
    pub(super) virtual_expiry: Duration,
}

/// What a [`CasBackend`](super::CasBackend) holds now, and what it has done, over all parts of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CasUsage {
    /// Requests that wait for a trip.
    pub queued: usize,
    /// Keys with requests that wait or are on their way.
    pub busy_keys: usize,
    /// Keys without any whose version is remembered.
    pub remembered_keys: usize,
    /// Trips that have ended, however they did.
    pub trips: u64,
    /// Writes that were applied.
    pub swaps: u64,
    /// Writes that were not, as the key had changed.
    pub conflicts: u64,
    /// States that were none: written by someone else, or damaged. Each counted as absent and was replaced by the next
    /// admission.
    pub corrupt_states: u64,
}

impl CasConfig {
    /// Four trips of up to 128 keys at a time; 8,192 requests may wait; 64 attempts within a second; up to 4,096 keys
    /// are remembered for 100 ms; values are kept a second longer than they are needed, an hour in virtual time.
    pub const fn new() -> Self {
        const SLOTS: NonZeroUsize = NonZeroUsize::new(4).unwrap();
        const MAX_BATCH: NonZeroUsize = NonZeroUsize::new(128).unwrap();
        const MAX_QUEUED: NonZeroUsize = NonZeroUsize::new(8_192).unwrap();
        const ATTEMPTS: NonZeroU32 = NonZeroU32::new(64).unwrap();
        Self {
            slots: SLOTS,
            max_batch: MAX_BATCH,
            max_queued: MAX_QUEUED,
            attempts: ATTEMPTS,
            patience: Duration::from_secs(1),
            remembered: 4_096,
            remember_for: Duration::from_millis(100),
            grace: Duration::from_secs(1),
            virtual_expiry: Duration::from_secs(3_600),
        }
    }

    /// How many trips are on their way at a time, per part of the store.
    pub const fn slots(mut self, trips: NonZeroUsize) -> Self {
        self.slots = trips;
        self
    }

    /// How many trips are on their way at a time, per part of the store: as many connections are of use to it.
    #[must_use]
    pub const fn trips_at_once(&self) -> usize {
        self.slots.get()
    }

    /// The most keys of a trip.
    pub const fn max_batch(mut self, keys: NonZeroUsize) -> Self {
        self.max_batch = keys;
        self
    }

    /// The most requests that wait, per part of the store.
    pub const fn max_queued(mut self, requests: NonZeroUsize) -> Self {
        self.max_queued = requests;
        self
    }

    /// How often a request is tried while others are faster.
    pub const fn attempts(mut self, attempts: NonZeroU32) -> Self {
        self.attempts = attempts;
        self
    }

    /// For how long a request is tried while others are faster, from the first time that they were.
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How many keys that nobody waits for are remembered with the version of their last write, per part of the store,
    /// and for how long: the next request of such a key takes one trip instead of two, unless another process has
    /// written it since; then it takes three.
    pub const fn remember(mut self, keys: usize, time: Duration) -> Self {
        self.remembered = keys;
        self.remember_for = time;
        self
    }

    /// For how long a value is kept once it is as if never written, so that expiry changes no answer of an instance
    /// whose clock is behind.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// For how long, at least, the value of a request is kept that carried its own instant: for tests in virtual time.
    pub const fn virtual_expiry(mut self, expiry: Duration) -> Self {
        self.virtual_expiry = expiry;
        self
    }
}

impl Default for CasConfig {
    fn default() -> Self {
        Self::new()
    }
}
