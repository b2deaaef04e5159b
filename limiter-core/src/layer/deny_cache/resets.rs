//! Which keys were reset since, without a list of keys.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of resets: of all, and of the keys that share a place.
///
/// A reset counts in the whole before it counts in its places. Whoever reads the places first and then finds the whole
/// as it was before, has read of the places what no reset since has changed.
pub(super) struct Resets {
    all: AtomicU64,
    places: Box<[AtomicU64]>,
}

/// Keys that share a place are forgotten together, which costs trips and nothing else.
const PLACES: u64 = 256;

impl Default for Resets {
    fn default() -> Self {
        Self { all: AtomicU64::new(0), places: (0..PLACES).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Resets {
    pub(super) fn count(&self) -> u64 {
        self.all.load(Ordering::SeqCst)
    }

    /// A number that grows with each reset of one of these keys, which are hashes.
    pub(super) fn of(&self, keys: impl Iterator<Item = u64>) -> u64 {
        keys.map(|key| self.place(key).load(Ordering::SeqCst)).fold(0, u64::wrapping_add)
    }

    /// These keys are reset; counted now, and once more when the reset has ended in whatever way.
    pub(super) fn begin(&self, keys: Vec<u64>) -> Resetting<'_> {
        self.add(&keys);
        Resetting { resets: self, keys }
    }

    fn add(&self, keys: &[u64]) {
        self.all.fetch_add(1, Ordering::SeqCst);
        for key in keys {
            self.place(*key).fetch_add(1, Ordering::SeqCst);
        }
    }

    fn place(&self, key: u64) -> &AtomicU64 {
        &self.places[(key % PLACES) as usize]
    }
}

#[must_use]
pub(super) struct Resetting<'r> {
    resets: &'r Resets,
    keys: Vec<u64>,
}

impl Drop for Resetting<'_> {
    fn drop(&mut self) {
        self.resets.add(&self.keys);
    }
}
