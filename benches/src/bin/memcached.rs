//! Memcached behind the library against bare commands of the same server through the same driver: a closed loop, ratios
//! within one run.
//!
//! `cargo run --release -p benches --bin memcached` starts a server of its own, prints a table per scenario and says of
//! each floor whether it was passed; with a word, it runs only the scenarios whose names hold it.

use benches::floors::Floor;
use benches::load::Contestant;
use benches::run::{self, Run, many};
use benches::stores::Fallible;
use benches::stores::memcached::{GET, INCR, Memcached};
use limiter_core::{Algorithm, CasConfig, Quota};
use std::process::ExitCode;
use std::time::Duration;

const TURN: Duration = Duration::from_millis(800);

const LIMITER: &str = "token bucket";
const FORGETFUL: &str = "token bucket, no versions kept";

struct Bench(Memcached);

fn main() -> Fallible<ExitCode> {
    let mut run = Run::from_args(TURN);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let bench = Bench(Memcached::start(benches::keys(10_000).into()).await?);
        bench.scenarios(&mut run).await
    })?;
    Ok(run.exit_code())
}

impl Bench {
    async fn scenarios(&self, run: &mut Run) -> Fallible<()> {
        let quota = benches::plenty(Algorithm::TokenBucket).build()?;
        for (callers, keys, floors) in [
            (1, 10_000, vec![Floor::median(FORGETFUL, GET, 2.4)]),
            (1, 1, vec![Floor::median(LIMITER, GET, 1.2)]),
            (256, 10_000, vec![Floor::rate(LIMITER, INCR, 1.5)]),
            (256, 1, vec![Floor::rate(LIMITER, INCR, 5.0), Floor::tail(LIMITER, 5.0)]),
        ] {
            let contestants = [
                self.0.get(),
                self.0.incr(),
                self.0.pipelined(),
                self.limiter(LIMITER, quota, CasConfig::new())?,
                self.limiter(FORGETFUL, quota, CasConfig::new().remember(0, Duration::ZERO))?,
            ];
            let name = format!("callers: {callers}, keys: {keys}");
            run.scenario(&name, callers, keys, &contestants, &floors).await;
        }
        let mut algorithms = Vec::new();
        for algorithm in Algorithm::ALL {
            algorithms.push(self.limiter(algorithm.name(), many(algorithm)?, CasConfig::new())?);
        }
        run.scenario("algorithms, callers: 256, keys: 10,000", 256, 10_000, &algorithms, &[]).await;
        let mut logs = Vec::new();
        for (name, limit) in [("100 in a log", 100), ("10,000 in a log", 10_000)] {
            let quota =
                Quota::new(limit, Duration::from_secs(10)).algorithm(Algorithm::SlidingLog).build()?;
            logs.push(self.limiter(name, quota, CasConfig::new())?);
        }
        run.scenario("log, callers: 64, keys: 16", 64, 16, &logs, &[]).await;
        Ok(())
    }

    fn limiter(&self, name: &'static str, quota: Quota, config: CasConfig) -> Fallible<Contestant> {
        Ok(run::limiter(name, self.0.builder().cas(config).build()?, quota, self.0.names())?)
    }
}
