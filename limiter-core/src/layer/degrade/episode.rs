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
    /// The first and the last error of this time.
    span: Option<(Instant, Instant)>,
    /// How long those before were.
    ended: Duration,
}

/// A time ends with an answer after so long without an error: where one part of the store is dead, answers and errors
/// take turns.
const CALM: Duration = Duration::from_secs(1);

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
        let Some((first, last)) = times.span else { return };
        if last.elapsed() < CALM {
            return;
        }
        times.ended += last.duration_since(first);
        times.span = None;
        self.is_on.store(false, Ordering::Relaxed);
        let degraded = last.duration_since(first);
        tracing::info!(store, ?degraded, "the store answers again");
    }

    pub(super) fn failed(&self, error: &BackendError, store: &'static str) {
        let kinds = ErrorKind::ALL.iter().zip(&self.errors);
        for (_, count) in kinds.filter(|(kind, _)| **kind == error.kind()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let (now, mut times) = (Instant::now(), self.times.lock());
        if let Some((_, last)) = &mut times.span {
            *last = now;
            return;
        }
        times.span = Some((now, now));
        self.is_on.store(true, Ordering::Relaxed);
        tracing::warn!(store, reason = %error, "the store gives no answer, and is done without");
    }

    pub(super) fn usage(&self, local: MemoryUsage) -> DegradeUsage {
        let count = |(kind, count): (&ErrorKind, &AtomicU64)| (*kind, count.load(Ordering::Relaxed));
        let errors: Vec<_> = ErrorKind::ALL.iter().zip(&self.errors).map(count).collect();
        let times = self.times.lock();
        let current = times.span.map_or(Duration::ZERO, |(first, last)| last.duration_since(first));
        DegradeUsage {
            is_degraded: times.span.is_some(),
            decisions: errors.iter().map(|(_, count)| count).sum(),
            degraded_for: times.ended + current,
            errors,
            local,
        }
    }
}
