//! Schedules worth trying: each request is derived from the last answer.

use limiter_core::Quota;
use proptest::prelude::*;

/// Any instant of this century would do; this one is no multiple of anything.
pub(crate) const START: u64 = 1_795_465_002_435_613;

/// When the next request comes, seen from the last one and its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    Same,
    Later(u64),
    /// A share of the window later, in 1/16.
    Windows(u64),
    AtRetry,
    BeforeRetry,
    AtReset,
    BeforeReset,
    AtWindowEnd,
    Back(u64),
    /// A share of the window earlier, in 1/16.
    WindowsBack(u64),
}

pub(crate) fn any_forward() -> impl Strategy<Value = When> {
    prop_oneof![
        4 => Just(When::Same),
        3 => (1_u64..3_000_000).prop_map(When::Later),
        3 => (0_u64..40).prop_map(When::Windows),
        3 => Just(When::AtRetry),
        3 => Just(When::BeforeRetry),
        1 => Just(When::AtReset),
        1 => Just(When::BeforeReset),
        1 => Just(When::AtWindowEnd),
    ]
}

pub(crate) fn any_when() -> impl Strategy<Value = When> {
    prop_oneof![
        6 => any_forward(),
        1 => (1_u64..3_000_000).prop_map(When::Back),
        1 => (1_u64..80).prop_map(When::WindowsBack),
    ]
}

/// What the next request costs, seen from the quota and the last answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cost {
    Peek,
    Exactly(u64),
    /// A share of the capacity, in 1/16.
    Share(u64),
    /// What was said to remain, and so much more.
    Remaining(u64),
}

pub(crate) fn any_cost() -> impl Strategy<Value = Cost> {
    prop_oneof![
        1 => Just(Cost::Peek),
        4 => (1_u64..4).prop_map(Cost::Exactly),
        3 => (0_u64..18).prop_map(Cost::Share),
        3 => (0_u64..2).prop_map(Cost::Remaining),
        1 => any::<u64>().prop_map(Cost::Exactly),
    ]
}

/// Microseconds and permits of the last answer, from which the next request is derived.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Last {
    pub(crate) retry_after: u64,
    pub(crate) reset_after: u64,
    pub(crate) remaining: u64,
}

impl When {
    /// The instant of the next request; never before the epoch nor past the last instant.
    pub(crate) fn after(self, now: u64, quota: &Quota, last: Last) -> u64 {
        let window = u64::try_from(quota.window().as_micros()).unwrap();
        let share =
            |sixteenths: u64| u64::try_from(u128::from(window) * u128::from(sixteenths) / 16).unwrap();
        let then = match self {
            Self::Same => now,
            Self::Later(by) => now + by,
            Self::Windows(by) => now + share(by),
            Self::AtRetry => now + last.retry_after,
            Self::BeforeRetry => now + last.retry_after.saturating_sub(1),
            Self::AtReset => now + last.reset_after,
            Self::BeforeReset => now + last.reset_after.saturating_sub(1),
            Self::AtWindowEnd => now - now % window + window,
            Self::Back(by) => now.saturating_sub(by),
            Self::WindowsBack(by) => now.saturating_sub(share(by)),
        };
        then.min(limiter_core::Timestamp::MAX.as_micros())
    }
}

impl Cost {
    pub(crate) fn of(self, quota: &Quota, last: Last) -> u64 {
        match self {
            Self::Peek => 0,
            Self::Exactly(cost) => cost,
            Self::Share(by) => u64::try_from(u128::from(quota.capacity()) * u128::from(by) / 16).unwrap(),
            Self::Remaining(more) => last.remaining + more,
        }
    }
}
