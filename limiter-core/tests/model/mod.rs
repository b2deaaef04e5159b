//! The reference model: the five algorithms as their definition reads, in exact arithmetic and without a thought for speed.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::ToPrimitive;

pub(crate) mod invariants;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    TokenBucket,
    LeakyBucket,
    FixedWindow,
    SlidingLog,
    SlidingCounter,
}

/// `limit` per `window` (in microseconds); `burst` is the capacity of the buckets, the others ignore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) algorithm: Algorithm,
    pub(crate) limit: u64,
    pub(crate) window: u64,
    pub(crate) burst: u64,
}

impl Quota {
    /// The most that can ever be taken at once.
    pub(crate) fn capacity(&self) -> u64 {
        match self.algorithm {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => self.burst,
            Algorithm::FixedWindow | Algorithm::SlidingLog | Algorithm::SlidingCounter => self.limit,
        }
    }
}

/// All times in microseconds, counted from the caller's instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) allowed: bool,
    pub(crate) remaining: u64,
    /// `Some(0)` when allowed, `None` when it can never be allowed.
    pub(crate) retry_after: Option<u64>,
    pub(crate) reset_after: u64,
    /// Only ever non-zero for an admitted leaky bucket request with a cost above 0.
    pub(crate) delay: u64,
}

/// The state of one key. Each algorithm has its own, so a change of algorithm starts afresh.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    token_bucket: Option<Bucket>,
    leaky_bucket: Option<Bucket>,
    fixed_window: Option<Window>,
    sliding_log: Vec<Entry>,
    sliding_counter: Option<Counter>,
}

impl Model {
    pub(crate) fn decide(&mut self, quota: &Quota, cost: u64, now: u64) -> Answer {
        match quota.algorithm {
            Algorithm::TokenBucket => token_bucket(&mut self.token_bucket, quota, cost, now),
            Algorithm::LeakyBucket => leaky_bucket(&mut self.leaky_bucket, quota, cost, now),
            Algorithm::FixedWindow => fixed_window(&mut self.fixed_window, quota, cost, now),
            Algorithm::SlidingLog => sliding_log(&mut self.sliding_log, quota, cost, now),
            Algorithm::SlidingCounter => sliding_counter(&mut self.sliding_counter, quota, cost, now),
        }
    }
}

// Buckets. Times are rational microseconds.

#[derive(Clone, Debug)]
struct Bucket {
    full_at: BigRational,
    /// The denominator of the quota that wrote `full_at`; `full_at` itself may reduce to a smaller one.
    l: BigInt,
}

fn token_bucket(state: &mut Option<Bucket>, quota: &Quota, cost: u64, now: u64) -> Answer {
    bucket(state, quota, cost, now).0
}

fn leaky_bucket(state: &mut Option<Bucket>, quota: &Quota, cost: u64, now: u64) -> Answer {
    let (mut answer, base) = bucket(state, quota, cost, now);
    if answer.allowed && cost > 0 {
        answer.delay = whole((base - rational(now)).ceil());
    }
    answer
}

/// The answer, and `base`: when the bucket, without this request, is full.
fn bucket(state: &mut Option<Bucket>, quota: &Quota, cost: u64, now: u64) -> (Answer, BigRational) {
    let now = rational(now);
    let permit = BigRational::new(quota.window.into(), quota.limit.into()); // w/l, reduced
    let l = permit.denom().clone();
    let capacity = rational(quota.burst) * &permit; // B*w/l
    let price = rational(cost) * &permit; // n*w/l

    let mut full_at = match state {
        None => now.clone(),
        Some(bucket) if bucket.l == l => bucket.full_at.clone(),
        // A remainder written under another l counts as one whole us.
        Some(bucket) => bucket.full_at.ceil(),
    };
    if &full_at - &now > rational(2) * &capacity {
        full_at = now.clone(); // too far in the future: counts as absent
    }

    let base = full_at.max(now.clone());
    let next = &base + price;
    let allowed = cost == 0 || &next - &now <= capacity;
    let after = if allowed { &next } else { &base };

    let answer = Answer {
        allowed,
        remaining: whole(((&capacity - (after - &now)) / permit).floor().max(rational(0))),
        retry_after: if allowed {
            Some(0)
        } else if cost > quota.burst {
            None
        } else {
            Some(whole((&next - &now - &capacity).ceil()))
        },
        reset_after: whole((after - &now).ceil()),
        delay: 0,
    };
    if allowed && cost > 0 {
        *state = Some(Bucket { full_at: next, l });
    }
    (answer, base)
}

// Windows. Times and counts are whole; i128 is wide enough for any product of two of them.

/// Where the window that holds `time` starts. Windows are aligned to the epoch.
fn window_start(time: i128, window: i128) -> i128 {
    time - time.rem_euclid(window)
}

/// The instant at which a state last touched at `seen` is judged: a state ahead by at most a window
/// moves `now` up to it. `None` if it is further ahead, so that it counts as absent.
fn deciding_instant(seen: i128, now: i128, window: i128) -> Option<i128> {
    if seen - now > window { None } else { Some(now.max(seen)) }
}

#[derive(Clone, Copy, Debug)]
struct Window {
    start: i128,
    count: i128,
}

fn fixed_window(state: &mut Option<Window>, quota: &Quota, cost: u64, now: u64) -> Answer {
    let (limit, window) = (i128::from(quota.limit), i128::from(quota.window));
    let (n, now) = (i128::from(cost), i128::from(now));

    let mut instant = now;
    let mut count = 0;
    if let Some(stored) = *state
        && let Some(moved) = deciding_instant(stored.start, now, window)
    {
        instant = moved;
        if window_start(stored.start, window) == window_start(instant, window) {
            count = stored.count.min(limit);
        }
    }
    let start = window_start(instant, window);
    let end = start + window;

    let allowed = n == 0 || count + n <= limit;
    if allowed {
        count += n;
    }
    if allowed && n > 0 {
        *state = Some(Window { start, count });
    }
    Answer {
        allowed,
        remaining: unsigned(limit - count),
        retry_after: if allowed {
            Some(0)
        } else if n > limit {
            None
        } else {
            Some(unsigned(end - now))
        },
        reset_after: if count > 0 { unsigned(end - now) } else { 0 },
        delay: 0,
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    time: i128,
    cost: i128,
}

/// `log` is in the order of its times: no entry is ever added before the newest, unless the log was absent.
fn sliding_log(log: &mut Vec<Entry>, quota: &Quota, cost: u64, now: u64) -> Answer {
    let (limit, window) = (i128::from(quota.limit), i128::from(quota.window));
    let (n, now) = (i128::from(cost), i128::from(now));

    let mut instant = now;
    let mut live = Vec::new();
    if let Some(newest) = log.last()
        && let Some(moved) = deciding_instant(newest.time, now, window)
    {
        instant = moved;
        live.clone_from(log);
        live.retain(|entry| entry.time > instant - window);
    }

    // The rule at a later instant, if nothing else is admitted until then.
    let used = |live: &[Entry], at: i128| -> i128 {
        let left = live.iter().filter(|entry| entry.time > at - window);
        left.map(|entry| entry.cost).sum()
    };
    let allowed = n == 0 || used(&live, instant) + n <= limit;
    let retry_after = if allowed {
        Some(0)
    } else if n > limit {
        None
    } else {
        // It can only become allowed when an entry leaves, and is when the last one has left.
        let leaving = live.iter().map(|entry| entry.time + window);
        let first = leaving
            .filter(|at| used(&live, *at) + n <= limit)
            .min()
            .expect("an empty log admits all that can ever be admitted");
        Some(unsigned(first - now))
    };

    if allowed && n > 0 {
        live.push(Entry { time: instant, cost: n });
        log.clone_from(&live); // only here are entries forgotten
    }
    Answer {
        allowed,
        remaining: unsigned((limit - used(&live, instant)).max(0)),
        retry_after,
        reset_after: live.last().map_or(0, |newest| unsigned(newest.time + window - now)),
        delay: 0,
    }
}

#[derive(Clone, Copy, Debug)]
struct Counter {
    start: i128,
    current: i128,
    previous: i128,
}

fn sliding_counter(state: &mut Option<Counter>, quota: &Quota, cost: u64, now: u64) -> Answer {
    let (limit, window) = (i128::from(quota.limit), i128::from(quota.window));
    let (n, now) = (i128::from(cost), i128::from(now));

    let (instant, mut counter) = read_counter(*state, quota, now);
    let allowed = n == 0 || counter_allows(&counter, quota, n, instant);
    let retry_after = if allowed {
        Some(0)
    } else if n > limit {
        None
    } else {
        // Denied in this ms; when the next window has ended, nothing is left to deny it.
        // In between it changes once, from denied to allowed.
        let mut denied = now.div_euclid(1000);
        let mut granted = (counter.start + 2 * window) / 1000;
        while granted - denied > 1 {
            let middle = (denied + granted) / 2;
            let (then, counter) = read_counter(*state, quota, middle * 1000);
            if counter_allows(&counter, quota, n, then) {
                granted = middle;
            } else {
                denied = middle;
            }
        }
        Some(unsigned(granted * 1000 - now))
    };

    if allowed {
        counter.current += n;
    }
    if allowed && n > 0 {
        *state = Some(counter);
    }
    let room = signed(limit) - estimate(&counter, quota, instant);
    let reset_at = if counter.current > 0 {
        counter.start + 2 * window
    } else if counter.previous > 0 {
        counter.start + window
    } else {
        now
    };
    Answer {
        allowed,
        remaining: whole(room.floor().max(rational(0))),
        retry_after,
        reset_after: unsigned(reset_at - now),
        delay: 0,
    }
}

/// The deciding instant, and the counts as they stand in its window.
fn read_counter(state: Option<Counter>, quota: &Quota, now: i128) -> (i128, Counter) {
    let (limit, window) = (i128::from(quota.limit), i128::from(quota.window));
    let unused = |instant| Counter { start: window_start(instant, window), current: 0, previous: 0 };
    let Some(mut stored) = state else {
        return (now, unused(now));
    };
    let Some(instant) = deciding_instant(stored.start, now, window) else {
        return (now, unused(now));
    };

    let stored_start = window_start(stored.start, window);
    if stored_start != stored.start {
        stored.current += stored.previous;
        stored.previous = 0;
    }
    let mut read = unused(instant);
    if stored_start == read.start {
        read.current = stored.current.min(limit);
        read.previous = stored.previous.min(limit);
    } else if stored_start == read.start - window {
        read.previous = stored.current.min(limit);
    }
    (instant, read)
}

/// What the counter takes the last window's use to be: the previous window's counts for as much as still overlaps.
fn estimate(counter: &Counter, quota: &Quota, instant: i128) -> BigRational {
    let wm = signed(i128::from(quota.window) / 1000);
    let e = signed((instant - counter.start) / 1000);
    signed(counter.current) + signed(counter.previous) * (&wm - e) / &wm
}

fn counter_allows(counter: &Counter, quota: &Quota, n: i128, instant: i128) -> bool {
    estimate(counter, quota, instant) + signed(n) <= rational(quota.limit)
}

fn rational(value: u64) -> BigRational {
    BigRational::from_integer(value.into())
}

fn signed(value: i128) -> BigRational {
    BigRational::from_integer(value.into())
}

fn whole(value: BigRational) -> u64 {
    assert!(value.is_integer(), "{value} is not whole");
    value.to_integer().to_u64().expect("no answer is negative")
}

fn unsigned(value: i128) -> u64 {
    u64::try_from(value).expect("no answer is negative")
}
