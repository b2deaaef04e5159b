//! When the store did not answer, and for how long.

use super::DegradeUsage;
use crate::error::{BackendError, ErrorKind};
use crate::memory::MemoryUsage;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The time since answers began to fail. Where the store answers, a flag is read.
#[derive(Default)]
pub(super) struct Episode {
    is_on: AtomicBool,
    errors: [AtomicU64; ErrorKind::ALL.len()],
    times: Mutex<Times>,
}

#[derive(Default)]
struct Times {
    /// The time that is not over, if there is one.
    current: Option<Time>,
    /// How long those before were.
    ended: Duration,
}

#[derive(Clone, Copy)]
struct Time {
    began: Instant,
    /// When the last error came, and how long it had been by then.
    last: Instant,
    lasted: Duration,
}

/// A time ends with an answer after so long without an error: where one part of the store is dead, answers and errors
/// take turns. A longer time between two errors is one in which nobody asked, of which so much counts.
const CALM: Duration = Duration::from_secs(1);

/// After so long without an error it is not known any more whether there would be one, as nobody asks.
const IDLE: Duration = Duration::from_secs(60);

impl Episode {
    #[inline]
    pub(super) fn heard(&self, store: &'static str) {
        if self.is_on.load(Ordering::Relaxed) {
            self.may_end(store);
        }
    }

    #[cold]
    fn may_end(&self, store: &'static str) {
        let mut times = self.times.lock();
        let Some(time) = times.current.take_if(|time| time.last.elapsed() >= CALM) else { return };
        let Time { began, last, lasted } = time;
        times.ended += lasted;
        self.is_on.store(false, Ordering::Relaxed);
        // Whoever hears of it may ask how it is.
        drop(times);
        tracing::info!(store, away = ?(last - began), degraded = ?lasted, "the store answers again");
    }

    pub(super) fn failed(&self, error: &BackendError, store: &'static str) {
        self.errors[error.kind().index()].fetch_add(1, Ordering::Relaxed);
        let (now, mut times) = (Instant::now(), self.times.lock());
        if let Some(over) = times.current.take_if(|time| now.duration_since(time.last) >= IDLE) {
            times.ended += over.lasted + CALM;
        }
        if let Some(time) = &mut times.current {
            time.lasted += now.duration_since(time.last).min(CALM);
            time.last = now;
            return;
        }
        times.current = Some(Time { began: now, last: now, lasted: Duration::ZERO });
        self.is_on.store(true, Ordering::Relaxed);
        drop(times);
        tracing::warn!(store, reason = %error, "the store gives no answer, and is done without");
    }

    pub(super) fn usage(&self, local: MemoryUsage) -> DegradeUsage {
        let count = |(kind, count): (&ErrorKind, &AtomicU64)| (*kind, count.load(Ordering::Relaxed));
        let errors: Vec<_> = ErrorKind::ALL.iter().zip(&self.errors).map(count).collect();
        let times = self.times.lock();
        let current = times.current.map_or(Duration::ZERO, |time| time.lasted);
        DegradeUsage {
            is_degraded: times.current.is_some_and(|time| time.last.elapsed() < IDLE),
            decisions: errors.iter().map(|(_, count)| count).sum(),
            degraded_for: times.ended + current,
            errors,
            local,
        }
    }
}
