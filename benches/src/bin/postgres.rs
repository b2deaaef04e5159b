//! PostgreSQL behind the library against a bare upsert of one row through a pool of the same size: a closed loop, ratios
//! within one run.
//!
//! `cargo run --release -p benches --bin postgres` starts a server of its own, which waits for its disk, prints a table
//! per scenario and says of each floor whether it was passed; with a word, it runs only the scenarios whose names hold it.

use benches::floors::Floor;
use benches::load::Contestant;
use benches::run::{self, Run, many};
use benches::stores::Fallible;
use benches::stores::postgres::{Postgres, UPSERT};
use limiter_core::{Algorithm, Coalesce, CoalesceConfig, Quota};
use limiter_postgres::Durability;
use std::process::ExitCode;
use std::time::Duration;

const TURN: Duration = Duration::from_millis(1_000);

const LIMITER: &str = "token bucket";
const POOLED: &str = "token bucket, ready pool";

struct Bench(Postgres);

fn main() -> Fallible<ExitCode> {
    let mut run = Run::from_args(TURN);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let bench = Bench(Postgres::start(benches::keys(10_000).into())?);
    runtime.block_on(bench.scenarios(&mut run))?;
    Ok(run.exit_code())
}

impl Bench {
    async fn scenarios(&self, run: &mut Run) -> Fallible<()> {
        for (durability, hot, many) in [
            (Durability::Unlogged, 15.0, 3.5),
            (Durability::Asynchronous, 15.0, 3.5),
            (Durability::Full, 100.0, 5.0),
        ] {
            for (callers, keys, floor) in [
                (1, 10_000, Floor::median(LIMITER, UPSERT, 1.25)),
                (256, 10_000, Floor::rate(LIMITER, UPSERT, many)),
                (256, 1, Floor::rate(LIMITER, UPSERT, hot)),
            ] {
                let name = format!("{durability:?}, callers: {callers}, keys: {keys}");
                if !run.wants(&name) {
                    continue;
                }
                let quota = benches::plenty(Algorithm::TokenBucket).build()?;
                let contestants = vec![
                    self.0.upsert(durability).await?,
                    self.limiter(LIMITER, quota, durability, false).await?,
                    self.limiter(POOLED, quota, durability, true).await?,
                ];
                run.scenario(&name, callers, keys, &contestants, &[floor]).await;
            }
        }
        let name = "algorithms, callers: 256, keys: 10,000";
        if run.wants(name) {
            let (mut contestants, mut floors) = (Vec::new(), Vec::new());
            for algorithm in Algorithm::ALL {
                let quota = many(algorithm)?;
                contestants.push(self.limiter(algorithm.name(), quota, Durability::Unlogged, false).await?);
                floors.push(Floor::rate(algorithm.name(), Algorithm::TokenBucket.name(), 0.1));
            }
            run.scenario(name, 256, 10_000, &contestants, &floors).await;
        }
        let name = "log, callers: 64, keys: 16";
        if run.wants(name) {
            let mut contestants = Vec::new();
            for (name, limit) in
                [("100 in a log", 100), ("10,000 in a log", 10_000), ("100,000 in a log", 100_000)]
            {
                let quota =
                    Quota::new(limit, Duration::from_secs(10)).algorithm(Algorithm::SlidingLog).build()?;
                contestants.push(self.limiter(name, quota, Durability::Unlogged, false).await?);
            }
            let floors = [Floor::rate("10,000 in a log", "100 in a log", 0.3)];
            run.scenario(name, 64, 16, &contestants, &floors).await;
        }
        Ok(())
    }

    async fn limiter(
        &self,
        name: &'static str,
        quota: Quota,
        durability: Durability,
        is_pooled: bool,
    ) -> Fallible<Contestant> {
        let builder = if is_pooled {
            limiter_postgres::Postgres::from_pool(self.0.pool()?).timeout(Duration::from_secs(5))
        } else {
            self.0.builder()
        };
        let builder = builder.table(format!("limits {name}")).durability(durability);
        let postgres = builder.build()?;
        postgres.migrate().await?;
        Ok(run::limiter(name, Coalesce::new(postgres, CoalesceConfig::new()), quota, self.0.names())?)
    }
}
