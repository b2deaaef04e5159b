use super::{Step, not_before};
use crate::decision::{Decision, Outcome};
use crate::quota::Quota;
use crate::time::Timestamp;
use std::collections::VecDeque;

/// Sliding window log: every admission of the last window, and so an exact limit in any window.
///
/// # Shape
/// [`Log`]: time (us since the epoch) and cost of each admission, oldest first; admissions at one instant are
/// one entry. The cost is kept as a running total, so that any decision takes two binary searches.
///
/// # Rule
/// An entry leaves exactly `W` after its time. A request of `n` permits is admitted iff the cost of the
/// entries with `time > now - W`, plus `n`, is at most `L`. A newest entry that is ahead of `now` by at most
/// `W` moves `now` up to it; further ahead, the log counts as absent. An admission forgets what has left.
///
/// # Bound
/// At most `L` in any window `(t - W, t]`, and nothing that could be admitted is denied. Memory grows with
/// the limit, which is at most [`Quota::MAX_LOG_LIMIT`].
///
/// # Source
/// "Better Rate Limiting With Redis Sorted Sets", Peter Hayes (2014); here in integers, and denials are not
/// logged.
#[derive(Clone, Copy, Debug)]
pub struct SlidingLog;

/// What a sliding window log keeps. The default is a key that was never used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    entries: VecDeque<Entry>,
    /// The running total up to the oldest entry, without it.
    forgotten: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    time: u64,
    /// The cost admitted up to and with this entry. It wraps, as its differences do.
    total: u64,
}

/// Room for so many entries is never given back: a log that comes and goes does not allocate each time.
const LEAST_ROOM: usize = 4;

impl Log {
    /// A log of these admissions, time (us since the Unix epoch) and cost, oldest first; one that is older than
    /// the one before it counts as of the same instant.
    #[must_use]
    pub fn new(admissions: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut log = Self::default();
        for (time, cost) in admissions {
            let newest = log.entries.back().copied().unwrap_or(Entry { time, total: 0 });
            log.push(time.max(newest.time), cost);
        }
        log
    }

    /// Time and cost of each admission, oldest first.
    pub fn admissions(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut before = self.forgotten;
        self.entries.iter().map(move |entry| {
            let cost = entry.total.wrapping_sub(before);
            before = entry.total;
            (entry.time, cost)
        })
    }

    fn push(&mut self, time: u64, cost: u64) {
        let total = self.total_before(self.len()).wrapping_add(cost);
        match self.entries.back_mut() {
            Some(last) if last.time == time => last.total = total,
            _ => self.entries.push_back(Entry { time, total }),
        }
    }

    /// How many instants are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no instant is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Makes one entry of the two newest, at the newer instant: the log holds one entry less and is stricter,
    /// for a store that has no room to let it grow.
    pub(crate) fn coarsen(&mut self) {
        if let Some(newest) = self.entries.pop_back() {
            match self.entries.back_mut() {
                Some(last) => *last = newest,
                None => self.entries.push_back(newest),
            }
        }
    }

    /// The running total up to the first entry that is still live at `deciding`.
    fn total_left(&self, deciding: u64, window: u64) -> u64 {
        let gone = self.entries.partition_point(|e| e.time.saturating_add(window) <= deciding);
        self.total_before(gone)
    }

    fn total_before(&self, index: usize) -> u64 {
        let before = index.checked_sub(1).and_then(|i| self.entries.get(i));
        before.map_or(self.forgotten, |e| e.total)
    }
}

/// A log as it stands for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogReading {
    /// The instant that decides.
    deciding: u64,
    /// The cost of the live entries.
    used: u64,
    /// The time of the newest live entry.
    newest: Option<u64>,
    /// Of a request that does not fit but will: the time of the entry whose leaving frees enough.
    frees: Option<u64>,
}

impl LogReading {
    /// What a store read: the deciding instant, the cost of the live entries, the time of the newest of them, and,
    /// of a request that does not fit but will, the time of the entry whose leaving frees enough; all us since the
    /// epoch.
    #[must_use]
    pub const fn new(deciding: u64, used: u64, newest: Option<u64>, frees: Option<u64>) -> Self {
        Self { deciding, used, newest, frees }
    }

    pub(super) fn is_of(&self, now: Timestamp) -> bool {
        self.deciding == now.as_micros()
    }

    /// Where it is known that nothing has left since: of an empty log, and as long as the oldest entry stays, which is
    /// the one to wait for where `cost` is one too many.
    pub(super) fn later(&self, quota: &Quota, cost: u64, now: Timestamp) -> Option<Self> {
        let later = Self { deciding: now.as_micros(), ..*self };
        if self.used == 0 {
            return Some(later);
        }
        let is_one_too_many = self.used.saturating_add(cost) == quota.limit().saturating_add(1);
        let oldest = self.frees.filter(|_| is_one_too_many)?;
        (oldest.saturating_add(quota.window_micros()) > now.as_micros()).then_some(later)
    }
}

impl Step for SlidingLog {
    type State = Log;
    type Reading = LogReading;

    fn read(state: &Log, quota: &Quota, cost: u64, now: Timestamp) -> LogReading {
        let (window, limit) = (quota.window_micros(), quota.limit());
        let fresh = LogReading { deciding: now.as_micros(), used: 0, newest: None, frees: None };
        let Some(newest) = state.entries.back() else {
            return fresh;
        };
        let Some(deciding) = not_before(newest.time, now, window) else {
            return fresh;
        };
        let left = state.total_left(deciding, window);
        let used = newest.total.wrapping_sub(left);
        if used == 0 {
            return fresh;
        }
        let excess = used.saturating_add(cost).saturating_sub(limit);
        let frees = (cost > 0 && cost <= limit && excess > 0).then(|| {
            // From the oldest, gone ones included, the first up to which as much is freed as is in excess.
            let index = state.entries.partition_point(|e| {
                let freed = e.total.wrapping_sub(left);
                // A total before `left` wraps to a number above any cost in the log: that entry has gone.
                freed > used || freed < excess
            });
            state.entries.get(index).map_or(newest.time, |e| e.time)
        });
        LogReading { deciding, used, newest: Some(newest.time), frees }
    }

    fn decide(reading: &LogReading, quota: &Quota, cost: u64, now: Timestamp) -> Decision {
        let left = quota.limit().saturating_sub(reading.used);
        let allowed = cost <= left;
        let taken = if allowed { cost } else { 0 };
        let newest = if taken > 0 { Some(reading.deciding) } else { reading.newest };
        let until_gone =
            |time: u64| time.saturating_add(quota.window_micros()).saturating_sub(now.as_micros());
        Outcome {
            allowed,
            remaining: left.saturating_sub(taken),
            retry_after: reading.frees.map(until_gone),
            reset_after: newest.map_or(0, until_gone),
        }
        .decision(quota)
    }

    fn take(state: &mut Log, reading: &LogReading, quota: &Quota, cost: u64) {
        if reading.newest.is_none() {
            // Nothing of it is live, or it lies too far ahead: it starts afresh.
            state.entries.clear();
            state.forgotten = 0;
        }
        let window = quota.window_micros();
        while let Some(oldest) = state.entries.front() {
            if oldest.time.saturating_add(window) > reading.deciding {
                break;
            }
            state.forgotten = oldest.total;
            state.entries.pop_front();
        }
        if state.entries.capacity() / 4 > state.len().max(LEAST_ROOM) {
            state.entries.shrink_to(state.len().saturating_mul(2));
        }
        state.push(reading.deciding, cost);
    }

    fn after(reading: &LogReading, _quota: &Quota, cost: u64) -> LogReading {
        let (used, newest) = (reading.used.saturating_add(cost), Some(reading.deciding));
        LogReading { used, newest, ..*reading }
    }

    fn give_back(
        state: &mut Log,
        _quota: &Quota,
        cost: u64,
        taken: &LogReading,
        _taken_at: Timestamp,
        _now: Timestamp,
    ) {
        let index = state.entries.partition_point(|e| e.time < taken.deciding);
        let before = state.total_before(index);
        let Some(entry) = state.entries.get(index).filter(|e| e.time == taken.deciding) else { return };
        let held = entry.total.wrapping_sub(before);
        let given = cost.min(held);
        for later in state.entries.range_mut(index..) {
            later.total = later.total.wrapping_sub(given);
        }
        if given == held {
            state.entries.remove(index);
        }
    }
}
