//! What a request answers by definition: core's own functions, one request at a time.

use limiter_core::algorithm::{
    Bucket, Counter, FixedWindow, LeakyBucket, Log, SlidingCounter, SlidingLog, Step, TokenBucket, Window,
};
use limiter_core::{Algorithm, Check, Decision, Quota, StorageKey, Timestamp};
use std::collections::HashMap;

/// A store as it is defined: no concurrency, no expiry, no bound.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    keys: HashMap<StorageKey, State>,
}

/// One key; only the state of its algorithm is ever used.
#[derive(Clone, Debug, Default)]
struct State {
    bucket: Bucket,
    window: Window,
    log: Log,
    counter: Counter,
}

impl State {
    fn step(&mut self, quota: &Quota, cost: u64, now: Timestamp) -> Decision {
        match quota.algorithm() {
            Algorithm::TokenBucket => TokenBucket::step(&mut self.bucket, quota, cost, now),
            Algorithm::LeakyBucket => LeakyBucket::step(&mut self.bucket, quota, cost, now),
            Algorithm::FixedWindow => FixedWindow::step(&mut self.window, quota, cost, now),
            Algorithm::SlidingLog => SlidingLog::step(&mut self.log, quota, cost, now),
            Algorithm::SlidingCounter => SlidingCounter::step(&mut self.counter, quota, cost, now),
        }
    }
}

impl Reference {
    /// A store in which no key was ever used.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decides one request: all checks are evaluated, and taken if all are admitted.
    pub fn decide(&mut self, checks: &[Check], now: Timestamp) -> Vec<Decision> {
        let decisions: Vec<Decision> = checks.iter().map(|check| self.look(check, check.cost, now)).collect();
        if decisions.iter().all(|decision| decision.allowed) {
            for check in checks {
                let state = self.keys.entry(check.key.clone()).or_default();
                let _taken = state.step(&check.quota, check.cost, now);
            }
            return decisions;
        }
        let spared = |(check, decision): (&Check, Decision)| {
            if decision.allowed { self.look(check, 0, now) } else { decision }
        };
        checks.iter().zip(decisions).map(spared).collect()
    }

    /// Forgets these keys.
    pub fn reset(&mut self, keys: &[StorageKey]) {
        keys.iter().for_each(|key| drop(self.keys.remove(key)));
    }

    fn look(&self, check: &Check, cost: u64, now: Timestamp) -> Decision {
        let mut state = self.keys.get(&check.key).cloned().unwrap_or_default();
        state.step(&check.quota, cost, now)
    }
}
