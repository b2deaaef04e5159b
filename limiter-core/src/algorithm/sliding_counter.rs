use super::fixed_window::window_start;
use super::{Step, not_before};
use crate::decision::{Decision, Outcome};
use crate::quota::Quota;
use crate::time::Timestamp;

/// Sliding window counter: this window's count, and the last one's for the share of it still in view.
///
/// # Shape
/// [`Counter`]: the start of the current window, us since the epoch, and the cost admitted in it and in the
/// one before.
///
/// # Rule
/// Windows are aligned to the Unix epoch. With `e` whole ms since the current window's start and the window
/// `Wm` in ms, a request of `n` permits is admitted iff `current + n <= L` and
/// `previous * (Wm - e) <= (L - n - current) * Wm`. A start that is ahead of `now` by at most `W` moves `now`
/// up to it; further ahead, the state counts as absent. Counts above the limit read as the limit. Where the
/// window has changed, both counts lie where the state's start does.
///
/// # Bound
/// At most `L` per aligned window. It assumes that the previous window's requests were spread evenly: an
/// adversary who bursts at a window's end gets just under `2 L` into a sliding window. With `p` the previous
/// count and `x = e / Wm`, the estimate is off by at least `-p x` and at most `p (1 - x)`, and by one ms of `p`.
///
/// # Source
/// Cloudflare, "How we built rate limiting capable of scaling to millions of domains" (2017), in integers.
#[derive(Clone, Copy, Debug)]
pub struct SlidingCounter;

/// What a sliding window counter keeps. The default is a key that was never used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    start: u64,
    current: u64,
    previous: u64,
}

impl Counter {
    /// The start of the current window, us since the Unix epoch, and the cost admitted in it and in the one
    /// before.
    #[must_use]
    pub const fn new(start: u64, current: u64, previous: u64) -> Self {
        Self { start, current, previous }
    }

    /// Start and counts, as the arguments of [`new`](Self::new).
    #[must_use]
    pub const fn parts(&self) -> (u64, u64, u64) {
        (self.start, self.current, self.previous)
    }
}

/// A sliding window counter as it stands for a request: the current window's start, the whole ms since, and
/// both counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterReading {
    start: u64,
    elapsed_ms: u64,
    current: u64,
    previous: u64,
}

impl CounterReading {
    /// What a store read: the start of the deciding window, us since the epoch, the whole ms since, and the counts
    /// in that window and in the one before.
    #[must_use]
    pub const fn new(start: u64, elapsed_ms: u64, current: u64, previous: u64) -> Self {
        Self { start, elapsed_ms, current, previous }
    }

    pub(super) fn is_of(&self, now: Timestamp) -> bool {
        now.as_micros().checked_sub(self.start).is_some_and(|since| since / 1_000 == self.elapsed_ms)
    }

    /// A state that reads so.
    pub(super) fn state(&self) -> Counter {
        Counter { start: self.start, current: self.current, previous: self.previous }
    }

    /// The first whole ms at which a cost that is denied now, and at most the limit, is allowed.
    fn allows(&self, quota: &Quota, cost: u64) -> u64 {
        let window_ms = quota.window_micros() / 1_000;
        let spare = quota.limit().saturating_sub(cost);
        let within = spare.checked_sub(self.current);
        let (start, ms) = match within.and_then(|room| first_ms(self.previous, room, window_ms)) {
            Some(ms) => (self.start, ms),
            // In the next window, where what is current now is previous.
            None => (
                self.start.saturating_add(quota.window_micros()),
                first_ms(self.current, spare, window_ms).unwrap_or(window_ms),
            ),
        };
        start.saturating_add(ms.saturating_mul(1_000))
    }
}

impl Step for SlidingCounter {
    type State = Counter;
    type Reading = CounterReading;

    fn read(state: &Counter, quota: &Quota, _cost: u64, now: Timestamp) -> CounterReading {
        let window = quota.window_micros();
        let (deciding, state) = match not_before(state.start, now, window) {
            Some(deciding) => (deciding, *state),
            None => (now.as_micros(), Counter::default()),
        };
        let start = window_start(deciding, window);
        let stood = window_start(state.start, window);
        let (current, previous) = if stood == state.start {
            (state.current, state.previous)
        } else {
            (state.current.saturating_add(state.previous), 0)
        };
        let (current, previous) = if stood == start {
            (current, previous)
        } else if stood.saturating_add(window) == start {
            (0, current)
        } else {
            (0, 0)
        };
        CounterReading {
            start,
            elapsed_ms: deciding.saturating_sub(start) / 1_000,
            current: current.min(quota.limit()),
            previous: previous.min(quota.limit()),
        }
    }

    fn decide(reading: &CounterReading, quota: &Quota, cost: u64, now: Timestamp) -> Decision {
        let &CounterReading { start, elapsed_ms, current, previous } = reading;
        let (limit, window) = (quota.limit(), quota.window_micros());
        let window_ms = window / 1_000;
        // The previous window's share, rounded up: n permits fit iff n <= limit - current - share.
        let share = previous.saturating_mul(window_ms.saturating_sub(elapsed_ms)).div_ceil(window_ms);
        let left = limit.saturating_sub(current).saturating_sub(share);
        let allowed = cost <= left;
        let taken = if allowed { cost } else { 0 };
        let until = |instant: u64| instant.saturating_sub(now.as_micros());
        let end = start.saturating_add(window);
        Outcome {
            allowed,
            remaining: left.saturating_sub(taken),
            retry_after: (!allowed && cost <= limit).then(|| until(reading.allows(quota, cost))),
            reset_after: match (current.saturating_add(taken), previous) {
                (0, 0) => 0,
                (0, _) => until(end),
                _ => until(end.saturating_add(window)),
            },
        }
        .decision(quota)
    }

    fn take(state: &mut Counter, reading: &CounterReading, _quota: &Quota, cost: u64) {
        let &CounterReading { start, current, previous, .. } = reading;
        *state = Counter { start, current: current.saturating_add(cost), previous };
    }

    fn after(reading: &CounterReading, _quota: &Quota, cost: u64) -> CounterReading {
        CounterReading { current: reading.current.saturating_add(cost), ..*reading }
    }

    fn give_back(
        state: &mut Counter,
        quota: &Quota,
        cost: u64,
        taken: &CounterReading,
        _taken_at: Timestamp,
        _now: Timestamp,
    ) {
        if state.start == taken.start {
            state.current = state.current.saturating_sub(cost);
        } else if state.start == taken.start.saturating_add(quota.window_micros()) {
            state.previous = state.previous.saturating_sub(cost);
        }
    }
}

/// The first whole ms of a window at which the share of `before`, the window before it, leaves `room`;
/// `None` if that is only when the window ends.
fn first_ms(before: u64, room: u64, window_ms: u64) -> Option<u64> {
    let still_in_view = room.saturating_mul(window_ms).checked_div(before).unwrap_or(window_ms);
    let ms = window_ms.saturating_sub(still_in_view);
    (ms < window_ms).then_some(ms)
}
