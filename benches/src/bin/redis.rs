//! Redis behind the library against bare commands of the same server through the same driver: a closed loop, ratios
//! within one run.
//!
//! `cargo run --release -p benches --bin redis` starts a server of its own, prints a table per scenario and says of
//! each floor whether it was passed; with a word, it runs only the scenarios whose names hold it.

use benches::floors::{Floor, report};
use benches::load::{Contestant, Scenario, Turns, compete};
use benches::redis::{INCR, Target};
use limiter_core::{Algorithm, Quota};
use limiter_testkit::servers;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Odd, so that the median is one of them.
const REPETITIONS: usize = 5;

const TURN: Duration = Duration::from_millis(800);

const LIMITER: &str = "token bucket";
const DIRECT: &str = "token bucket, single calls";

struct Bench(Target);

fn main() -> Fallible<ExitCode> {
    let only = std::env::args().nth(1).unwrap_or_default();
    let server = servers::Redis::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let passed = runtime.block_on(async { Bench(Target::connect(server.url()).await?).run(&only).await })?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Bench {
    async fn run(&self, only: &str) -> Fallible<bool> {
        let mut passed = true;
        for (callers, keys, floors) in [
            (1, 10_000, vec![Floor::median(LIMITER, INCR, 1.25)]),
            (4, 10_000, vec![Floor::rate(LIMITER, DIRECT, 0.97)]),
            (16, 10_000, vec![Floor::rate(LIMITER, DIRECT, 0.97)]),
            (64, 10_000, vec![Floor::rate(LIMITER, INCR, 0.5)]),
            (256, 10_000, vec![Floor::rate(LIMITER, INCR, 0.7)]),
            (256, 1, vec![Floor::rate(LIMITER, INCR, 5.0)]),
        ] {
            let name = format!("callers: {callers}, keys: {keys}");
            let mut contestants = Vec::from(self.0.bare());
            for (name, coalesces) in [(LIMITER, true), (DIRECT, false)] {
                let quota = benches::plenty(Algorithm::TokenBucket).build()?;
                contestants.push(self.0.limiter(name, quota, coalesces)?);
            }
            passed &= self.scenario(only, &name, callers, keys, contestants, &floors).await;
        }
        let algorithms =
            Algorithm::ALL.map(|algorithm| self.0.limiter(algorithm.name(), many(algorithm)?, true));
        let algorithms = algorithms.into_iter().collect::<Fallible<Vec<_>>>()?;
        let floors =
            Algorithm::ALL.map(|algorithm| Floor::rate(algorithm.name(), Algorithm::TokenBucket.name(), 0.5));
        passed &= self
            .scenario(only, "algorithms, callers: 256, keys: 10,000", 256, 10_000, algorithms, &floors)
            .await;
        let logs = [("100 in a log", 100), ("100,000 in a log", 100_000)].map(|(name, limit)| {
            let quota =
                Quota::new(limit, Duration::from_secs(10)).algorithm(Algorithm::SlidingLog).build()?;
            self.0.limiter(name, quota, true)
        });
        let logs = logs.into_iter().collect::<Fallible<Vec<_>>>()?;
        let floors = [Floor::rate("100,000 in a log", "100 in a log", 0.7)];
        passed &= self.scenario(only, "log, callers: 64, keys: 16", 64, 16, logs, &floors).await;
        Ok(passed)
    }

    /// One scenario, unless it is not asked for; whether its floors hold.
    async fn scenario(
        &self,
        only: &str,
        name: &str,
        callers: usize,
        keys: usize,
        contestants: Vec<Contestant>,
        floors: &[Floor],
    ) -> bool {
        if !name.contains(only) {
            return true;
        }
        let turns = compete(&contestants, Scenario { callers, keys, turn: TURN }, REPETITIONS).await;
        let named: Vec<(&str, Turns)> = contestants.iter().map(|c| c.name).zip(turns).collect();
        report(name, &named, floors)
    }
}

/// A quota that admits nearly everything over many keys.
fn many(algorithm: Algorithm) -> Fallible<Quota> {
    Ok(match algorithm {
        Algorithm::SlidingLog => Quota::per_second(1_000).algorithm(algorithm).build()?,
        _ => benches::plenty(algorithm).build()?,
    })
}
