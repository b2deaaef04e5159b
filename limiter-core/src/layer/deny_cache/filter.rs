//! What is not remembered for certain, in a few nanoseconds: most requests are of those.

use crate::time::Timestamp;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bits of the hashes that were added lately: a map for this period and one for the last, each forgotten as a whole.
///
/// A period is as long as anything is held, so that what was added is found for at least that long. Without a bound on
/// that there is no filter.
pub(super) struct Filter {
    /// In us; 0: everything may be held.
    period: u64,
    maps: [Map; 2],
    turning: Mutex<()>,
}

struct Map {
    /// The number of its period, from 1 on.
    period: AtomicU64,
    words: Box<[AtomicU64]>,
}

/// 65,536 bits, 8 KiB: of a request that was not denied, with a thousand others that were, one in 65 is looked up.
const WORDS: u64 = 1_024;

impl Filter {
    pub(super) fn new(hold: Option<Duration>) -> Self {
        let micros = hold.map_or(0, |hold| u64::try_from(hold.as_micros()).unwrap_or(u64::MAX).max(1));
        let map =
            || Map { period: AtomicU64::new(0), words: (0..WORDS).map(|_| AtomicU64::new(0)).collect() };
        Self { period: micros, maps: [map(), map()], turning: Mutex::new(()) }
    }

    #[inline]
    pub(super) fn may_hold(&self, hash: u64, now: Timestamp) -> bool {
        let Some(period) = self.period_of(now) else { return true };
        let is_in = |period: u64| {
            let map = self.map(period);
            map.period.load(Ordering::Acquire) == period && map.has(hash)
        };
        is_in(period) || is_in(period - 1)
    }

    pub(super) fn add(&self, hash: u64, now: Timestamp) {
        let Some(period) = self.period_of(now) else { return };
        let map = self.map(period);
        let _one_at_a_time = self.turning.lock();
        if map.period.load(Ordering::Relaxed) != period {
            map.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            map.period.store(period, Ordering::Release);
        }
        let (word, bit) = map.place(hash);
        word.fetch_or(bit, Ordering::Release);
    }

    fn period_of(&self, now: Timestamp) -> Option<u64> {
        now.as_micros().checked_div(self.period).map(|period| period + 1)
    }

    fn map(&self, period: u64) -> &Map {
        &self.maps[usize::from(!period.is_multiple_of(2))]
    }
}

impl Map {
    fn has(&self, hash: u64) -> bool {
        let (word, bit) = self.place(hash);
        word.load(Ordering::Acquire) & bit != 0
    }

    fn place(&self, hash: u64) -> (&AtomicU64, u64) {
        (&self.words[(hash / 64 % WORDS) as usize], 1 << (hash % 64))
    }
}
