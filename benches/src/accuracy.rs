//! What each algorithm makes of the same traffic, in virtual time: no store, no clock, the same figures on every machine.
//!
//! A [`Trace`] is replayed through core's own functions, and what was admitted is judged by the figures of a [`Score`].
//! A store that passes the conformance suite decides the same.

pub mod access_log;
pub mod cost;
pub mod metrics;
mod replay;
pub mod trace;

pub use replay::{Replayed, replay};
pub use trace::{Arrival, Trace};

use limiter_core::{Algorithm, Quota, QuotaError};
use serde::{Deserialize, Serialize};

/// An algorithm and its quota, as the report calls them.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The algorithm's name, and the burst where it is not the limit.
    pub name: String,
    /// What is enforced.
    pub quota: Quota,
}

/// One limit and window for all: each algorithm, and a token bucket whose burst is a tenth of the limit.
///
/// # Errors
/// An algorithm that cannot enforce it exactly.
pub fn policies(limit: u64, window: std::time::Duration) -> Result<Vec<Policy>, QuotaError> {
    let quota = Quota::new(limit, window);
    let mut policies = Vec::new();
    for algorithm in Algorithm::ALL {
        let quota = quota.algorithm(algorithm).build()?;
        policies.push(Policy { name: algorithm.name().to_owned(), quota });
        if algorithm == Algorithm::TokenBucket && limit >= 10 {
            let quota = Quota::new(limit, window).burst(limit / 10).build()?;
            policies.push(Policy { name: format!("token-bucket, burst {}", limit / 10), quota });
        }
    }
    Ok(policies)
}

/// What a policy made of a trace.
///
/// A request *starts* when it is admitted, or at the turn that the leaky bucket gives it, as `acquire` lets it. Figures of
/// several keys are the worst key's for `worst_window`, and means weighted by what the keys offered for the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Who decided.
    pub policy: String,
    /// Requests of the trace.
    pub offered: u64,
    /// Those that were admitted.
    pub admitted: u64,
    /// Those that were not.
    pub denied: u64,
    /// The most that started in any window of the quota's length, wherever it begins, in limits: see
    /// [`metrics::most_in_any_window`].
    pub worst_window: f64,
    /// [`metrics::fairness`]; `None` where nothing was admitted.
    pub fairness: Option<f64>,
    /// [`metrics::unevenness`].
    pub unevenness: f64,
    /// What started in each slot of the part of the trace that is drawn.
    pub started: Vec<u64>,
}

/// A trace, and what every policy made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceReport {
    /// The trace's name.
    pub name: String,
    /// What kind of traffic it is.
    pub about: String,
    /// Keys that asked.
    pub keys: usize,
    /// How long it lasts, in seconds.
    pub seconds: f64,
    /// The [`Score::unevenness`] of what was offered.
    pub unevenness: f64,
    /// Seconds of a slot of the part that is drawn.
    pub slot: f64,
    /// What was offered in each slot.
    pub offered: Vec<u64>,
    /// By policy.
    pub scores: Vec<Score>,
}

/// Replays a trace through all policies.
#[must_use]
pub fn judge(trace: &Trace, policies: &[Policy]) -> TraceReport {
    let offered = trace.by_key();
    let slots = trace.shown();
    let all: Vec<u64> = trace.arrivals.iter().map(|arrival| arrival.at).collect();
    let score = |policy: &Policy| score(trace, &offered, policy);
    let window = policies.first().map_or(1, |policy| micros(&policy.quota));
    TraceReport {
        name: trace.name.clone(),
        about: trace.about.clone(),
        keys: trace.keys,
        seconds: seconds(trace.end() - trace.start()),
        unevenness: weighted(&offered, |key| {
            Some(metrics::unevenness(&offered[key], trace.slots(window / 10)))
        })
        .unwrap_or_default(),
        slot: seconds(slots.width),
        offered: slots.count(&all),
        scores: policies.iter().map(score).collect(),
    }
}

fn score(trace: &Trace, offered: &[Vec<u64>], policy: &Policy) -> Score {
    let Replayed { admitted, started } = replay(trace, &policy.quota);
    let window = micros(&policy.quota);
    let slots = trace.slots(window / 10);
    let count = |times: &[Vec<u64>]| times.iter().map(|times| times.len() as u64).sum::<u64>();
    let worst = started.iter().map(|times| metrics::most_in_any_window(times, window)).max().unwrap_or(0);
    let all: Vec<u64> = started.iter().flatten().copied().collect();
    Score {
        policy: policy.name.clone(),
        offered: count(offered),
        admitted: count(&admitted),
        denied: count(offered) - count(&admitted),
        worst_window: crate::float(worst) / crate::float(policy.quota.limit()),
        fairness: weighted(offered, |key| metrics::fairness(&offered[key], &admitted[key], slots)),
        unevenness: weighted(offered, |key| Some(metrics::unevenness(&started[key], slots)))
            .unwrap_or_default(),
        started: trace.shown().count(&all),
    }
}

/// The mean over keys, weighted by what they offered; of those that have a figure.
fn weighted(offered: &[Vec<u64>], of: impl Fn(usize) -> Option<f64>) -> Option<f64> {
    let figures = offered.iter().enumerate().filter_map(|(key, times)| Some((of(key)?, times.len() as u64)));
    let (sum, weight) = figures.fold((0.0, 0.0), |(sum, weight), (figure, offered)| {
        (sum + figure * crate::float(offered), weight + crate::float(offered))
    });
    (weight > 0.0).then(|| sum / weight)
}

fn micros(quota: &Quota) -> u64 {
    u64::try_from(quota.window().as_micros()).unwrap_or(u64::MAX)
}

fn seconds(micros: u64) -> f64 {
    crate::float(micros) / 1e6
}

#[cfg(test)]
mod tests;
