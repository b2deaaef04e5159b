//! A store's states, decided on by readings, as stores far away do.

use limiter_core::algorithm::{
    Bucket, Counter, FixedWindow, LeakyBucket, Log, Reading, SlidingCounter, SlidingLog, Step, TokenBucket,
    Window,
};
use limiter_core::{Algorithm, Check, StorageKey, Timestamp, Verdict};
use std::collections::HashMap;

#[derive(Clone, Default)]
pub(crate) struct States(HashMap<StorageKey, State>);

impl States {
    /// All or nothing; a denial says what it was made of.
    pub(crate) fn decide(&mut self, checks: &[Check], now: Timestamp) -> Verdict {
        let read = |check: &Check| self.0.get(&check.key).unwrap_or(&State::default()).read(check, now);
        let readings: Vec<Reading> = checks.iter().map(read).collect();
        let verdict = Reading::verdict(checks, &readings, now).unwrap();
        if verdict.allowed() {
            for check in checks {
                self.0.entry(check.key.clone()).or_default().take(check, now);
            }
        }
        verdict
    }

    pub(crate) fn reset(&mut self, keys: &[StorageKey]) {
        keys.iter().for_each(|key| drop(self.0.remove(key)));
    }

    /// Forgets all, as a failover may.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// One key; only the state of its algorithm is ever used.
#[derive(Clone, Default)]
struct State {
    bucket: Bucket,
    window: Window,
    log: Log,
    counter: Counter,
}

impl State {
    fn read(&self, check: &Check, now: Timestamp) -> Reading {
        let Check { quota, cost, .. } = check;
        match quota.algorithm() {
            Algorithm::TokenBucket => Reading::Bucket(TokenBucket::read(&self.bucket, quota, *cost, now)),
            Algorithm::LeakyBucket => Reading::Bucket(LeakyBucket::read(&self.bucket, quota, *cost, now)),
            Algorithm::FixedWindow => Reading::Window(FixedWindow::read(&self.window, quota, *cost, now)),
            Algorithm::SlidingLog => Reading::Log(SlidingLog::read(&self.log, quota, *cost, now)),
            Algorithm::SlidingCounter => {
                Reading::Counter(SlidingCounter::read(&self.counter, quota, *cost, now))
            }
        }
    }

    fn take(&mut self, check: &Check, now: Timestamp) {
        let Check { quota, cost, .. } = check;
        let _ = match quota.algorithm() {
            Algorithm::TokenBucket => TokenBucket::step(&mut self.bucket, quota, *cost, now),
            Algorithm::LeakyBucket => LeakyBucket::step(&mut self.bucket, quota, *cost, now),
            Algorithm::FixedWindow => FixedWindow::step(&mut self.window, quota, *cost, now),
            Algorithm::SlidingLog => SlidingLog::step(&mut self.log, quota, *cost, now),
            Algorithm::SlidingCounter => SlidingCounter::step(&mut self.counter, quota, *cost, now),
        };
    }
}
