use super::{Step, not_before};
use crate::decision::{Decision, Outcome};
use crate::quota::Quota;
use crate::time::Timestamp;

/// Fixed window: a count per window, the windows aligned to the Unix epoch.
///
/// # Shape
/// [`Window`]: the start of the window, us since the epoch, and the cost admitted in it.
///
/// # Rule
/// A request of `n` permits is admitted iff `count + n <= L`, where the count is zero unless the state lies
/// in the current window. A start that is ahead of `now` by at most `W` moves `now` up to it; further ahead,
/// the state counts as absent. A count above the limit (the limit was lowered) reads as the limit.
///
/// # Bound
/// At most `L` per aligned window, and so up to `2 L` in a window that straddles two: `L` at the end of one,
/// `L` at the start of the next.
///
/// # Source
/// The counter of Redis' `INCR` documentation, "Pattern: Rate limiter", aligned to the epoch.
#[derive(Clone, Copy, Debug)]
pub struct FixedWindow;

/// What a fixed window keeps. The default is a key that was never used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    start: u64,
    count: u64,
}

impl Window {
    /// A window that started at `start`, us since the Unix epoch, and the cost admitted in it.
    #[must_use]
    pub const fn new(start: u64, count: u64) -> Self {
        Self { start, count }
    }

    /// Start and count, as the arguments of [`new`](Self::new).
    #[must_use]
    pub const fn parts(&self) -> (u64, u64) {
        (self.start, self.count)
    }
}

/// A fixed window as it stands for a request: the current window's start and count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowReading {
    start: u64,
    count: u64,
}

impl WindowReading {
    /// What a store read: the start of the deciding window, us since the epoch, and the count in it.
    #[must_use]
    pub const fn new(start: u64, count: u64) -> Self {
        Self { start, count }
    }

    pub(super) fn is_of(&self, now: Timestamp) -> bool {
        self.start <= now.as_micros()
    }

    /// A state that reads so.
    pub(super) fn state(&self) -> Window {
        Window { start: self.start, count: self.count }
    }
}

impl Step for FixedWindow {
    type State = Window;
    type Reading = WindowReading;

    fn read(state: &Window, quota: &Quota, _cost: u64, now: Timestamp) -> WindowReading {
        let window = quota.window_micros();
        let deciding = not_before(state.start, now, window).unwrap_or(now.as_micros());
        let start = window_start(deciding, window);
        let count = if window_start(state.start, window) == start { state.count } else { 0 };
        WindowReading { start, count }
    }

    fn decide(reading: &WindowReading, quota: &Quota, cost: u64, now: Timestamp) -> Decision {
        let left = quota.limit().saturating_sub(reading.count);
        let to_end = reading.start.saturating_add(quota.window_micros()).saturating_sub(now.as_micros());
        let allowed = cost <= left;
        let taken = if allowed { cost } else { 0 };
        let is_used = reading.count.saturating_add(taken) > 0;
        Outcome {
            allowed,
            remaining: left.saturating_sub(taken),
            retry_after: (cost <= quota.capacity()).then_some(to_end),
            reset_after: if is_used { to_end } else { 0 },
        }
        .decision(quota)
    }

    fn take(state: &mut Window, reading: &WindowReading, _quota: &Quota, cost: u64) {
        *state = Window { start: reading.start, count: reading.count.saturating_add(cost) };
    }

    fn after(reading: &WindowReading, _quota: &Quota, cost: u64) -> WindowReading {
        WindowReading { count: reading.count.saturating_add(cost), ..*reading }
    }

    fn give_back(
        state: &mut Window,
        _quota: &Quota,
        cost: u64,
        taken: &WindowReading,
        _taken_at: Timestamp,
        _now: Timestamp,
    ) {
        if state.start == taken.start {
            state.count = state.count.saturating_sub(cost);
        }
    }
}

/// The start of the aligned window in which an instant lies.
pub(super) fn window_start(instant: u64, window: u64) -> u64 {
    instant.saturating_sub(instant.checked_rem(window).unwrap_or(0))
}
