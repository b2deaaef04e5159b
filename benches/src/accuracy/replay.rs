//! A trace through an algorithm.

use super::trace::Trace;
use limiter_core::algorithm::{FixedWindow, LeakyBucket, SlidingCounter, SlidingLog, Step, TokenBucket};
use limiter_core::{Algorithm, Quota, Timestamp};

/// What became of a trace, by key: ascending times, in us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// When requests were admitted.
    pub admitted: Vec<Vec<u64>>,
    /// When they start: when they were admitted, or at their turn.
    pub started: Vec<Vec<u64>>,
}

/// What this quota makes of a trace, every request at its own instant.
#[must_use]
pub fn replay(trace: &Trace, quota: &Quota) -> Replayed {
    match quota.algorithm() {
        Algorithm::TokenBucket => by::<TokenBucket>(trace, quota),
        Algorithm::LeakyBucket => by::<LeakyBucket>(trace, quota),
        Algorithm::FixedWindow => by::<FixedWindow>(trace, quota),
        Algorithm::SlidingLog => by::<SlidingLog>(trace, quota),
        Algorithm::SlidingCounter => by::<SlidingCounter>(trace, quota),
    }
}

fn by<A: Step>(trace: &Trace, quota: &Quota) -> Replayed {
    let mut states = vec![A::State::default(); trace.keys];
    let (mut admitted, mut started) = (vec![Vec::new(); trace.keys], vec![Vec::new(); trace.keys]);
    for arrival in &trace.arrivals {
        let now = Timestamp::from_micros(arrival.at).unwrap_or(Timestamp::MAX);
        let decision = A::step(&mut states[arrival.key], quota, 1, now);
        if decision.allowed {
            admitted[arrival.key].push(arrival.at);
            started[arrival.key].push((now + decision.delay).as_micros());
        }
    }
    Replayed { admitted, started }
}
