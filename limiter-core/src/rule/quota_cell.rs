//! A quota that is read with every decision and hardly ever written.

use crate::quota::{Quota, Words};
use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// A sequence lock: readers write nothing, so that cores which decide at the same time do not slow each other,
/// and wait only while a writer stores a few words.
///
/// The order of its loads and stores is that of H.-J. Boehm, "Can seqlocks get along with programming language
/// memory models?" (2012), figure 6.
pub(super) struct QuotaCell {
    /// Odd while a writer is at work.
    version: AtomicU64,
    words: [AtomicU64; Quota::WORDS],
    writer: Mutex<()>,
}

impl QuotaCell {
    pub(super) fn new(quota: Quota) -> Self {
        Self {
            version: AtomicU64::new(0),
            words: quota.to_words().map(AtomicU64::new),
            writer: Mutex::new(()),
        }
    }

    #[inline]
    pub(super) fn get(&self) -> Quota {
        let before = self.version.load(Ordering::Acquire);
        let words = self.read();
        fence(Ordering::Acquire);
        if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
            return Quota::from_words(words);
        }
        // Read here too: a call that returned the quota would put it into memory, on the usual way as well.
        let _writer = self.wait();
        Quota::from_words(self.read())
    }

    #[cold]
    #[inline(never)]
    fn wait(&self) -> MutexGuard<'_, ()> {
        self.writer.lock()
    }

    pub(super) fn set(&self, quota: Quota) {
        let _writer = self.writer.lock();
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, word) in self.words.iter().zip(quota.to_words()) {
            place.store(word, Ordering::Relaxed);
        }
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    #[inline]
    fn read(&self) -> Words {
        self.words.each_ref().map(|word| word.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// Readers see one quota or the other, never parts of both.
    #[test]
    fn a_quota_is_read_whole() {
        let [a, b] = ["7/13s burst 3", "1000003/day leaky-bucket"].map(|text| text.parse::<Quota>().unwrap());
        let (cell, done) = (QuotaCell::new(a), AtomicBool::new(false));
        let seen = std::thread::scope(|scope| {
            let read = || {
                let mut seen = [0_u64; 2];
                while !done.load(Ordering::Relaxed) {
                    let quota = cell.get();
                    assert!(quota == a || quota == b, "{quota} is neither");
                    seen[usize::from(quota == b)] += 1;
                }
                seen
            };
            let readers = [scope.spawn(read), scope.spawn(read)];
            for _ in 0..50_000 {
                cell.set(b);
                cell.set(a);
            }
            done.store(true, Ordering::Relaxed);
            readers.map(|reader| reader.join().unwrap())
        });
        assert_eq!(cell.get(), a);
        assert!(seen.iter().flatten().sum::<u64>() > 0);
    }
}
