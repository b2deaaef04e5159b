//! What every history of one key must obey, judged from the admissions in it alone: no state is kept.

use super::{Algorithm, Quota};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) at: u64,
    pub(crate) cost: u64,
    pub(crate) answer: super::Answer,
}

impl Event {
    fn at(&self) -> i128 {
        self.at.into()
    }

    /// What it took.
    fn taken(&self) -> i128 {
        if self.answer.allowed { self.cost.into() } else { 0 }
    }

    fn remaining(&self) -> i128 {
        self.answer.remaining.into()
    }

    fn reset_at(&self) -> i128 {
        self.at() + i128::from(self.answer.reset_after)
    }

    /// When a denied request is to come back, if it may.
    fn retry_at(&self) -> Option<i128> {
        let retry_after = self.answer.retry_after.filter(|_| !self.answer.allowed)?;
        Some(self.at() + i128::from(retry_after))
    }

    /// When an admitted request starts.
    fn turn(&self) -> i128 {
        self.at() + i128::from(self.answer.delay)
    }
}

/// Panics with a message that names the invariant and the events that break it.
///
/// The history starts with the key's first request, misses none, has one quota, and its instants never decrease.
pub(crate) fn check(quota: &Quota, history: &[Event]) {
    for pair in history.windows(2) {
        assert!(pair[0].at <= pair[1].at, "not a history, time runs backwards: {pair:?}");
    }
    let invariant = match quota.algorithm {
        Algorithm::TokenBucket => {
            token_bucket(quota, history);
            "I1"
        }
        Algorithm::LeakyBucket => {
            token_bucket(quota, history);
            leaky_bucket(quota, history);
            "I2"
        }
        Algorithm::FixedWindow => {
            fixed_window(quota, history);
            "I3"
        }
        Algorithm::SlidingLog => {
            sliding_log(quota, history);
            "I4"
        }
        Algorithm::SlidingCounter => {
            sliding_counter(quota, history);
            "I5"
        }
    };
    exact(invariant, quota, history);
    if quota.algorithm != Algorithm::LeakyBucket {
        let delayed = history.iter().find(|event| event.answer.delay > 0);
        assert!(delayed.is_none(), "I2: only a leaky bucket delays: {delayed:?} under {quota:?}");
    }
    hints(quota, history);
    agreement(quota, history);
}

fn limit(quota: &Quota) -> i128 {
    quota.limit.into()
}

fn window(quota: &Quota) -> i128 {
    quota.window.into()
}

fn window_start(quota: &Quota, at: i128) -> i128 {
    at - at.rem_euclid(window(quota))
}

/// The cost admitted in `[from, to)`.
fn taken(history: &[Event], from: i128, to: i128) -> i128 {
    let within = history.iter().filter(|event| from <= event.at() && event.at() < to);
    within.map(Event::taken).sum()
}

/// I1: `A[s,t] * W <= B*W + L*(t-s)` for all `s <= t`.
fn token_bucket(quota: &Quota, history: &[Event]) {
    let burst = i128::from(quota.burst);
    for (i, first) in history.iter().enumerate() {
        let mut sum = 0;
        for last in &history[i..] {
            sum += last.taken();
            let bound = burst * window(quota) + limit(quota) * (last.at() - first.at());
            assert!(
                sum * window(quota) <= bound,
                "I1: {sum} admitted from {first:?} to {last:?}, more than {quota:?} grants"
            );
        }
    }
}

/// I2: turns are spaced by the cost of the one before, in the order of arrival, and no turn is left unused.
fn leaky_bucket(quota: &Quota, history: &[Event]) {
    for event in history {
        assert!(
            event.taken() > 0 || event.answer.delay == 0,
            "I2: what takes nothing has no turn: {event:?} under {quota:?}"
        );
    }
    let admitted: Vec<&Event> = history.iter().filter(|event| event.taken() > 0).collect();

    for (i, first) in admitted.iter().enumerate() {
        let mut sum = 0;
        for pair in admitted[i..].windows(2) {
            let (before, last) = (pair[0], pair[1]);
            assert!(before.turn() <= last.turn(), "I2: out of order: {before:?} {last:?} under {quota:?}");
            sum += before.taken();
            // Turns are rounded up to whole us, so any distance may be short by less than one.
            assert!(
                (last.turn() - first.turn()) * limit(quota) > sum * window(quota) - limit(quota),
                "I2: {sum} permits from {first:?} to {last:?} are too close under {quota:?}"
            );
        }
    }

    // The exact turns, times L to stay whole; the reported ones are these, rounded up.
    let mut free_at = 0;
    for event in admitted {
        let turn = (event.at() * limit(quota)).max(free_at);
        let early = event.turn() * limit(quota) - turn;
        assert!(
            0 <= early && early < limit(quota),
            "I2: the turn is not {turn}/{}: {event:?} under {quota:?}",
            quota.limit
        );
        free_at = turn + event.taken() * window(quota);
    }
}

/// I3: at most `L` per aligned window, and `(ceil(T/W) + 1) * L` in any half-open interval of length `T`.
fn fixed_window(quota: &Quota, history: &[Event]) {
    per_window("I3", quota, history);
    for (i, first) in history.iter().enumerate() {
        let mut sum = 0;
        for last in &history[i..] {
            sum += last.taken();
            let length = last.at() - first.at() + 1; // the shortest that holds both
            let windows = (length + window(quota) - 1) / window(quota);
            assert!(
                sum <= (windows + 1) * limit(quota),
                "I3: {sum} admitted from {first:?} to {last:?} under {quota:?}"
            );
        }
    }
}

fn per_window(invariant: &str, quota: &Quota, history: &[Event]) {
    for event in history {
        let start = window_start(quota, event.at());
        let sum = taken(history, start, start + window(quota));
        assert!(
            sum <= limit(quota),
            "{invariant}: {sum} admitted in the window of {event:?} under {quota:?}"
        );
    }
}

/// I4: at most `L` in `(t-W, t]` for all `t`. The sum can only peak at an admission.
fn sliding_log(quota: &Quota, history: &[Event]) {
    for event in history {
        let sum = taken(history, event.at() - window(quota) + 1, event.at() + 1);
        assert!(sum <= limit(quota), "I4: {sum} admitted in the window up to {event:?} under {quota:?}");
    }
}

/// I5: at most `L` per aligned window; the estimate stays within its error, and so the truth below `2L`.
fn sliding_counter(quota: &Quota, history: &[Event]) {
    per_window("I5", quota, history);
    for (i, event) in history.iter().enumerate() {
        let history = &history[..=i];
        let start = window_start(quota, event.at());
        let previous = taken(history, start - window(quota), start);
        let truth = taken(history, event.at() - window(quota) + 1, event.at() + 1);
        let wm = window(quota) / 1000;
        let e = (event.at() - start) / 1000;

        assert!(
            truth * wm <= limit(quota) * wm + previous * e && truth < 2 * limit(quota),
            "I5: {truth} admitted in the window up to {event:?} under {quota:?}"
        );
        // The estimate shows in `remaining`, rounded up. In whole ms on both sides, so without the slack of one.
        let error = (limit(quota) - event.remaining() - truth) * wm;
        assert!(
            -previous * e <= error && error < previous * (wm - e) + wm,
            "I5: {event:?} shows an estimate too far from {truth} under {quota:?}"
        );
    }
}

/// Whether the rule admits `cost` at `at`, after `past`, which is not later.
fn fits(quota: &Quota, past: &[Event], cost: i128, at: i128) -> bool {
    let start = window_start(quota, at);
    match quota.algorithm {
        // It fits if it leaves I1 intact, in every interval that ends with it.
        Algorithm::TokenBucket | Algorithm::LeakyBucket => {
            let burst = i128::from(quota.burst);
            let mut sum = cost;
            let mut longest = past.iter().rev();
            sum <= burst
                && longest.all(|first| {
                    sum += first.taken();
                    // What takes nothing starts no interval worth asking about.
                    first.taken() == 0
                        || sum * window(quota) <= burst * window(quota) + limit(quota) * (at - first.at())
                })
        }
        Algorithm::FixedWindow => taken(past, start, at + 1) + cost <= limit(quota),
        // An entry of age exactly W has left.
        Algorithm::SlidingLog => taken(past, at - window(quota) + 1, at + 1) + cost <= limit(quota),
        Algorithm::SlidingCounter => {
            let current = taken(past, start, at + 1);
            let previous = taken(past, start - window(quota), start);
            let wm = window(quota) / 1000;
            let e = (at - start) / 1000;
            current + cost <= limit(quota) && previous * (wm - e) <= (limit(quota) - cost - current) * wm
        }
    }
}

/// Exact both ways: admitted if and only if the rule says so. A peek always is.
fn exact(invariant: &str, quota: &Quota, history: &[Event]) {
    for (i, event) in history.iter().enumerate() {
        let fits = event.cost == 0 || fits(quota, &history[..i], event.cost.into(), event.at());
        assert!(
            event.answer.allowed == fits,
            "{invariant}: the rule says allowed = {fits}: {event:?} under {quota:?}, after {:?}",
            history[..i].last()
        );
    }
}

/// I6: each answer is exact about its own future, if nobody else consumes.
fn hints(quota: &Quota, history: &[Event]) {
    let capacity = i128::from(quota.capacity());
    for (i, event) in history.iter().enumerate() {
        let (before, after) = (&history[..i], &history[..=i]);
        let (cost, at) = (i128::from(event.cost), event.at());
        let claim = |holds: bool, what: &str| {
            assert!(holds, "I6: {what}: {event:?} under {quota:?}, after {:?}", before.last());
        };

        claim(
            event.answer.allowed == (event.answer.retry_after == Some(0)),
            "retry_after is zero exactly when allowed",
        );
        claim(
            event.answer.retry_after.is_none() == (cost > capacity),
            "retry_after is absent exactly above the capacity",
        );
        if let Some(retry_at) = event.retry_at() {
            claim(fits(quota, before, cost, retry_at), "still denied after retry_after");
            // The counter's rule only changes at whole ms, so this holds it to them.
            claim(!fits(quota, before, cost, retry_at - 1), "allowed before retry_after");
            claim(retry_at <= event.reset_at(), "retry_after beyond the reset");
        }

        let remaining = event.remaining();
        claim(event.answer.allowed || cost > remaining, "denied what remains");
        claim(remaining == 0 || fits(quota, after, remaining, at), "remaining is not there");
        claim(!fits(quota, after, remaining + 1, at), "more than remaining is there");

        // As if never used: the whole capacity can be taken.
        claim(fits(quota, after, capacity, event.reset_at()), "still in use after reset_after");
        claim(
            event.answer.reset_after == 0 || !fits(quota, after, capacity, event.reset_at() - 1),
            "unused before reset_after",
        );
        claim((remaining == capacity) == (event.answer.reset_after == 0), "unused exactly when all remains");
    }
}

/// I6: an answer does not contradict the one before it, whichever instances gave them.
fn agreement(quota: &Quota, history: &[Event]) {
    for pair in history.windows(2) {
        let (one, two) = (&pair[0], &pair[1]);
        let claim = |holds: bool, what: &str| {
            assert!(holds, "I6: {what}: {one:?} {two:?} under {quota:?}");
        };

        // With time, what remains can only grow.
        let found = two.remaining() + two.taken();
        claim(found >= one.remaining(), "remaining shrank by itself");
        claim(found == one.remaining() || one.at < two.at, "remaining changed at the same instant");
        claim(two.answer.allowed || i128::from(two.cost) > one.remaining(), "denied what remained");

        if two.taken() == 0 {
            claim(
                two.reset_at() == one.reset_at().max(two.at()),
                "the state is the same, the reset instant is not",
            );
        }
        if let Some(retry_at) = one.retry_at() {
            claim(
                two.cost > one.cost || two.at() < retry_at || two.answer.allowed,
                "denied though told to come back by now",
            );
            claim(
                two.cost < one.cost || two.at() >= retry_at || !two.answer.allowed,
                "allowed though told to come back later",
            );
            let again = two.retry_at().filter(|_| one.cost == two.cost);
            claim(
                again.is_none_or(|again| again == retry_at),
                "the state is the same, the retry instant is not",
            );
        }
    }
}
