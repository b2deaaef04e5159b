//! PostgreSQL behind the library against a bare upsert of one row through a pool of the same size: a closed loop, ratios
//! within one run.
//!
//! `cargo run --release -p benches --bin postgres` starts a server of its own, which waits for its disk, prints a table
//! per scenario and says of each floor whether it was passed; with a word, it runs only the scenarios whose names hold it.

use benches::floors::Floor;
use benches::load::Contestant;
use benches::run::{self, Run, many};
use limiter_core::{Algorithm, Coalesce, CoalesceConfig, Quota};
use limiter_postgres::deadpool_postgres::{Config, Pool, PoolConfig, Runtime};
use limiter_postgres::{Durability, Postgres};
use limiter_testkit::servers;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::NoTls;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const TURN: Duration = Duration::from_millis(1_000);

const CONNECTIONS: usize = 16;

const UPSERT: &str = "upsert";
const LIMITER: &str = "token bucket";
const POOLED: &str = "token bucket, ready pool";

struct Bench {
    url: String,
    names: Arc<[String]>,
}

fn main() -> Fallible<ExitCode> {
    let mut run = Run::from_args(TURN);
    let server = servers::Postgres::builder()
        .config("fsync", "on")
        .config("full_page_writes", "on")
        .config("shared_buffers", "256MB")
        .config("max_connections", "200")
        .start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let bench = Bench { url: server.url(), names: benches::keys(10_000).into() };
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
                    self.upsert(durability).await?,
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

    fn pool(&self) -> Fallible<Pool> {
        let config = Config {
            url: Some(self.url.clone()),
            pool: Some(PoolConfig::new(CONNECTIONS)),
            ..Config::default()
        };
        Ok(config.create_pool(Some(Runtime::Tokio1), NoTls)?)
    }

    async fn upsert(&self, durability: Durability) -> Fallible<Contestant> {
        let pool = self.pool()?;
        let (kind, commit) = match durability {
            Durability::Unlogged => ("UNLOGGED", "off"),
            Durability::Asynchronous => ("", "off"),
            Durability::Full => ("", "on"),
        };
        let setup = format!(
            "DROP TABLE IF EXISTS bare; \
             CREATE {kind} TABLE bare (key bytea PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 50); \
             ALTER ROLE limiter SET synchronous_commit = {commit}"
        );
        pool.get().await?.batch_execute(&setup).await?;
        // Its sessions have the role's new setting.
        let (pool, names) = (self.pool()?, Arc::clone(&self.names));
        Ok(Contestant::new(UPSERT, move |key| {
            let (pool, names) = (pool.clone(), Arc::clone(&names));
            async move {
                let client = pool.get().await.unwrap_or_else(|error| panic!("{error}"));
                let statement = client.prepare_cached(
                    "INSERT INTO bare AS b (key, n) VALUES ($1, $2) \
                     ON CONFLICT (key) DO UPDATE SET n = b.n + excluded.n RETURNING n",
                );
                let statement = statement.await.unwrap_or_else(|error| panic!("{error}"));
                let row = client.query_one(&statement, &[&names[key].as_bytes(), &1_i64]).await;
                assert!(row.is_ok(), "{row:?}");
            }
        }))
    }

    async fn limiter(
        &self,
        name: &'static str,
        quota: Quota,
        durability: Durability,
        is_pooled: bool,
    ) -> Fallible<Contestant> {
        let builder = if is_pooled {
            Postgres::from_pool(self.pool()?)
        } else {
            Postgres::builder(&self.url).connections(CONNECTIONS)
        };
        let builder = builder.table(format!("limits {name}")).durability(durability);
        let postgres = builder.timeout(Duration::from_secs(5)).build()?;
        postgres.migrate().await?;
        Ok(run::limiter(name, Coalesce::new(postgres, CoalesceConfig::new()), quota, &self.names)?)
    }
}
