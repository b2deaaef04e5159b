//! What is logged, now and then.

use crate::error::{BackendError, ErrorKind};
use crate::time::{Every, Timestamp};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a request may fail by, as labels: the kinds of errors in their order, and what is no error of a backend's.
pub(super) const KINDS: [&str; ErrorKind::ALL.len() + 1] = {
    let mut kinds = ["dropped"; ErrorKind::ALL.len() + 1];
    let mut place = 0;
    while place < ErrorKind::ALL.len() {
        kinds[place] = ErrorKind::ALL[place].name();
        place += 1;
    }
    kinds
};

/// The last of [`KINDS`]: whoever asked left.
pub(super) const DROPPED: usize = KINDS.len() - 1;

/// Between two lines of one kind.
const PAUSE: Duration = Duration::from_secs(10);

/// Warnings, a line of each kind at most every [`PAUSE`].
#[derive(Default)]
pub(super) struct Notices {
    failed: [Notice; ErrorKind::ALL.len()],
    degraded: Notice,
}

#[derive(Default)]
struct Notice {
    every: Every,
    suppressed: AtomicU64,
}

impl Notices {
    #[cold]
    pub(super) fn failed(&self, what: &'static str, error: &BackendError) {
        let kind = error.kind();
        if let Some(suppressed) = self.failed[kind.index()].suppressed_before(Timestamp::now()) {
            // Without its source, which may quote what was sent.
            let (store, kind) = (error.backend(), kind.name());
            tracing::warn!(store, kind, suppressed, %error, "{what}");
        }
    }

    #[cold]
    pub(super) fn degraded(&self, store: &'static str) {
        if let Some(suppressed) = self.degraded.suppressed_before(Timestamp::now()) {
            tracing::warn!(store, suppressed, "decided without the store");
        }
    }
}

impl Notice {
    /// How many were suppressed before one that is not; `None`: it is.
    fn suppressed_before(&self, now: Timestamp) -> Option<u64> {
        if self.every.is_due(PAUSE, now) {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_many_were_suppressed_since_the_last() {
        let (notice, start) = (Notice::default(), Timestamp::now());
        let lines = [0, 1, 9_999_999, 10_000_000, 10_000_001, 25_000_000]
            .map(|later| notice.suppressed_before(start + Duration::from_micros(later)));
        assert_eq!(lines, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
