//! A run of a store's benchmark: its scenarios, one after another, and whether the floors of all of them hold.

use crate::floors::{Floor, report};
use crate::keys::Keys;
use crate::load::{Arrivals, Ask, Contestant, Scenario, Turns, compete};
use limiter_core::{Algorithm, Backend, Error, Quota, QuotaError, RateLimiter, RateLimiterBuilder, Rule};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Odd, so that the median is one of them.
const REPETITIONS: usize = 5;

/// Scenarios that were asked for, and what came of them.
#[derive(Debug)]
pub struct Run {
    only: String,
    turn: Duration,
    passed: bool,
}

impl Run {
    /// A run of turns of this length; the program's first argument, if there is one, says which scenarios: those whose
    /// names hold it.
    #[must_use]
    pub fn from_args(turn: Duration) -> Self {
        Self { only: std::env::args().nth(1).unwrap_or_default(), turn, passed: true }
    }

    /// Whether a scenario of this name is asked for.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }

    /// Lets contestants compete, and prints a table and whether the floors hold; unless it is not asked for.
    pub async fn scenario(
        &mut self,
        name: &str,
        callers: usize,
        keys: usize,
        contestants: &[Contestant],
        floors: &[Floor],
    ) {
        if !self.wants(name) {
            return;
        }
        let scenario =
            Scenario { arrivals: Arrivals::Closed(callers), keys: Keys::uniform(keys), turn: self.turn };
        let turns = compete(contestants, &scenario, REPETITIONS).await;
        let named: Vec<(&str, Turns)> = contestants.iter().map(|c| c.name).zip(turns).collect();
        self.passed &= report(name, &named, floors);
    }

    /// Success if every floor held.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        if self.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// The library over a backend as it is: one `RateLimiter::check` per question, in a namespace of the contestant's name.
///
/// # Errors
/// The backend cannot keep the quota.
///
/// # Panics
/// The caller that an error answers.
pub fn limiter(
    name: &'static str,
    backend: impl Backend,
    quota: Quota,
    names: &Arc<[String]>,
) -> Result<Contestant, Error> {
    asks(name, RateLimiter::builder(backend).as_is(), quota, names)
}

/// The same with all that a limiter puts around a store by default, and a deadline that a busy machine keeps.
///
/// # Errors
/// The backend cannot keep the quota.
///
/// # Panics
/// The caller that an error answers.
pub fn with_all_layers(
    name: &'static str,
    backend: impl Backend,
    quota: Quota,
    names: &Arc<[String]>,
) -> Result<Contestant, Error> {
    asks(name, RateLimiter::builder(backend).deadline(Duration::from_secs(5)), quota, names)
}

fn asks(
    name: &'static str,
    builder: RateLimiterBuilder,
    quota: Quota,
    names: &Arc<[String]>,
) -> Result<Contestant, Error> {
    let limiter = builder.namespace(name).rule(Rule::new("bench", quota)).build()?;
    Ok(Contestant::new(name, Checks { limiter, names: Arc::clone(names) }))
}

/// One `RateLimiter::check` per question.
#[derive(Clone)]
struct Checks {
    limiter: RateLimiter,
    names: Arc<[String]>,
}

impl Ask for Checks {
    async fn ask(&mut self, key: usize) {
        let decision = self.limiter.check(&self.names[key]).await;
        assert!(decision.is_ok(), "{decision:?}");
    }
}

/// A quota that admits nearly everything over many keys.
///
/// # Errors
/// None: every algorithm takes it.
pub fn many(algorithm: Algorithm) -> Result<Quota, QuotaError> {
    match algorithm {
        Algorithm::SlidingLog => Quota::per_second(1_000).algorithm(algorithm).build(),
        _ => crate::plenty(algorithm).build(),
    }
}
