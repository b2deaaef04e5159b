//! The lock of a part of `Memory`, and of a queue.

use spin::mutex::{SpinMutex, SpinMutexGuard};
use std::hint::spin_loop;
use std::thread::{sleep, yield_now};
use std::time::Duration;

/// A lock for what takes tens of nanoseconds. It is freed by a plain store: one that knows who waits is freed by a
/// second atomic exchange, which costs as much as a decision's arithmetic and lets nothing overlap.
///
/// Whoever waits spins for about a microsecond, longer than a decision takes; then holds no core that the holder may
/// need. Aligned, so that neighbours do not share a cache line.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Lock<T>(SpinMutex<T>);

pub(crate) type Locked<'a, T> = SpinMutexGuard<'a, T>;

/// So many looks at a lock that is held are each twice as far apart as those before, as a look slows the holder down; ...
const SPINS: u32 = 6;

/// ... those up to here let whoever else is ready run in between, ...
const YIELDS: u32 = 64;

/// ... and then there is one after each pause: the holder lost its core, or looks through all of its keys.
const PAUSE: Duration = Duration::from_micros(50);

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(SpinMutex::new(value))
    }

    #[inline(always)]
    pub(crate) fn lock(&self) -> Locked<'_, T> {
        match self.0.try_lock() {
            Some(locked) => locked,
            None => self.wait(),
        }
    }

    #[cold]
    #[inline(never)]
    fn wait(&self) -> Locked<'_, T> {
        let mut looks = 0_u32;
        loop {
            looks = looks.saturating_add(1);
            if looks <= SPINS {
                (0..1_u32 << looks).for_each(|_| spin_loop());
            } else if looks <= YIELDS {
                yield_now();
            } else {
                sleep(PAUSE);
            }
            // Looks before it tries: a try takes the cache line away from the holder.
            if !self.0.is_locked()
                && let Some(locked) = self.0.try_lock()
            {
                return locked;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that takes long: those who wait come to each way of waiting, and none is lost.
    #[test]
    fn whoever_waits_gets_it_in_the_end() {
        let lock = Lock::new(0_u32);
        std::thread::scope(|scope| {
            let held = lock.lock();
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| *lock.lock() += 1));
            }
            sleep(Duration::from_millis(20));
            drop(held);
        });
        assert_eq!(*lock.lock(), 40_000);
    }
}
