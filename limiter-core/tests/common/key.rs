//! The reference: one key, under every algorithm.

use limiter_core::algorithm::{
    Bucket, Counter, FixedWindow, LeakyBucket, Log, SlidingCounter, SlidingLog, Step, TokenBucket, Window,
};
use limiter_core::{Algorithm, Decision, Quota, Timestamp};

/// One key, under every algorithm.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Key {
    pub(crate) token: Bucket,
    pub(crate) leaky: Bucket,
    pub(crate) fixed: Window,
    pub(crate) log: Log,
    pub(crate) counter: Counter,
}

impl Key {
    pub(crate) fn step(&mut self, quota: &Quota, cost: u64, now: u64) -> Decision {
        let now = Timestamp::from_micros(now).unwrap();
        match quota.algorithm() {
            Algorithm::TokenBucket => TokenBucket::step(&mut self.token, quota, cost, now),
            Algorithm::LeakyBucket => LeakyBucket::step(&mut self.leaky, quota, cost, now),
            Algorithm::FixedWindow => FixedWindow::step(&mut self.fixed, quota, cost, now),
            Algorithm::SlidingLog => SlidingLog::step(&mut self.log, quota, cost, now),
            Algorithm::SlidingCounter => SlidingCounter::step(&mut self.counter, quota, cost, now),
        }
    }
}
