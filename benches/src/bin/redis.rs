//! Redis behind the library against bare commands of the same server through the same driver: a closed loop, ratios
//! within one run.
//!
//! `cargo run --release -p benches --bin redis` starts a server of its own, prints a table per scenario and says of
//! each floor whether it was passed; with a word, it runs only the scenarios whose names hold it.

use benches::floors::{Floor, report};
use benches::load::{Contestant, Scenario, Turns, compete};
use limiter_core::{Algorithm, Coalesce, CoalesceConfig, Quota, RateLimiter, Rule};
use limiter_redis::Redis;
use limiter_redis::redis::aio::MultiplexedConnection;
use limiter_redis::redis::{Client, IntoConnectionInfo, cmd};
use limiter_testkit::servers;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Odd, so that the median is one of them.
const REPETITIONS: usize = 5;

const TURN: Duration = Duration::from_millis(800);

/// As the driver comes: small packets wait for each other, which on loopback lets more of them share a system call.
const INCR: &str = "INCR";
/// As the library sets its own connection, and as a network wants it.
const INCR_AT_ONCE: &str = "INCR, TCP_NODELAY";
const LIMITER: &str = "token bucket";
const DIRECT: &str = "token bucket, single calls";

struct Bench {
    url: String,
    plain: MultiplexedConnection,
    at_once: MultiplexedConnection,
    names: Arc<[String]>,
}

fn main() -> Fallible<ExitCode> {
    let only = std::env::args().nth(1).unwrap_or_default();
    let server = servers::Redis::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let passed = runtime.block_on(async { Bench::new(server.url()).await?.run(&only).await })?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Bench {
    async fn new(url: String) -> Fallible<Self> {
        let info = url.as_str().into_connection_info()?;
        let settings = info.tcp_settings().clone().set_nodelay(true);
        let plain = Client::open(info.clone())?.get_multiplexed_async_connection().await?;
        let at_once =
            Client::open(info.set_tcp_settings(settings))?.get_multiplexed_async_connection().await?;
        Ok(Self { url, plain, at_once, names: benches::keys(10_000).into() })
    }

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
            let contestants = vec![
                self.incr(INCR, &self.plain),
                self.incr(INCR_AT_ONCE, &self.at_once),
                self.limiter(LIMITER, benches::plenty(Algorithm::TokenBucket).build()?, true)?,
                self.limiter(DIRECT, benches::plenty(Algorithm::TokenBucket).build()?, false)?,
            ];
            passed &= self.scenario(only, &name, callers, keys, contestants, &floors).await;
        }
        let algorithms =
            Algorithm::ALL.map(|algorithm| self.limiter(algorithm.name(), many(algorithm)?, true));
        let algorithms = algorithms.into_iter().collect::<Fallible<Vec<_>>>()?;
        let floors =
            Algorithm::ALL.map(|algorithm| Floor::rate(algorithm.name(), Algorithm::TokenBucket.name(), 0.5));
        passed &= self
            .scenario(only, "algorithms, callers: 256, keys: 10,000", 256, 10_000, algorithms, &floors)
            .await;
        let logs = [("100 in a log", 100), ("100,000 in a log", 100_000)].map(|(name, limit)| {
            let quota =
                Quota::new(limit, Duration::from_secs(10)).algorithm(Algorithm::SlidingLog).build()?;
            self.limiter(name, quota, true)
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

    fn incr(&self, name: &'static str, connection: &MultiplexedConnection) -> Contestant {
        let (connection, names) = (connection.clone(), Arc::clone(&self.names));
        Contestant::new(name, move |key| {
            let (mut connection, names) = (connection.clone(), Arc::clone(&names));
            async move {
                let answer: Result<i64, _> = cmd("INCR").arg(&names[key]).query_async(&mut connection).await;
                assert!(answer.is_ok(), "{answer:?}");
            }
        })
    }

    fn limiter(&self, name: &'static str, quota: Quota, coalesces: bool) -> Fallible<Contestant> {
        // A busy machine is no outage.
        let redis = Redis::builder(&self.url).timeout(Duration::from_secs(5)).build()?;
        let builder = if coalesces {
            RateLimiter::builder(Coalesce::new(redis, CoalesceConfig::new()))
        } else {
            RateLimiter::builder(redis)
        };
        let limiter = builder.namespace(name).rule(Rule::new("bench", quota)).build()?;
        let names = Arc::clone(&self.names);
        Ok(Contestant::new(name, move |key| {
            let (limiter, names) = (limiter.clone(), Arc::clone(&names));
            async move {
                let decision = limiter.check(&names[key]).await;
                assert!(decision.is_ok(), "{decision:?}");
            }
        }))
    }
}

/// A quota that admits nearly everything over many keys.
fn many(algorithm: Algorithm) -> Fallible<Quota> {
    Ok(match algorithm {
        Algorithm::SlidingLog => Quota::per_second(1_000).algorithm(algorithm).build()?,
        _ => benches::plenty(algorithm).build()?,
    })
}
