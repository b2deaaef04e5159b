//! What a decision costs by itself: one request after another through core's function, timed.

use super::{Policy, Trace, replay};
use crate::load::median;
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::time::Instant;

/// The time of a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Who decided.
    pub policy: String,
    /// Nanoseconds per request of the trace, the median of the turns.
    pub nanos: f64,
}

/// Times the replay of a trace, policy after policy in turns, of which each order begins with another.
#[must_use]
pub fn measure(trace: &Trace, policies: &[Policy], turns: usize) -> Vec<Cost> {
    let mut nanos = vec![Vec::new(); policies.len()];
    for turn in 0..turns {
        for place in 0..policies.len() {
            let place = (place + turn) % policies.len();
            let began = Instant::now();
            black_box(replay(black_box(trace), &policies[place].quota));
            let requests = crate::float(trace.arrivals.len() as u64);
            nanos[place].push(began.elapsed().as_secs_f64() * 1e9 / requests);
        }
    }
    let cost =
        |(policy, nanos): (&Policy, Vec<f64>)| Cost { policy: policy.name.clone(), nanos: median(nanos) };
    policies.iter().zip(nanos).map(cost).collect()
}
