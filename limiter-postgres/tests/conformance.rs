//! PostgreSQL, through the suite that every backend passes, by every way that leads to it.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use async_trait::async_trait;
use limiter_core::{
    Algorithm, Coalesce, CoalesceConfig, DeadlineConfig, StandardConfig, StorageKey, standard,
};
use limiter_postgres::deadpool_postgres::{Config, Runtime};
use limiter_postgres::{Durability, Postgres, PostgresBuilder, Sweeping};
use limiter_testkit::servers::shared;
use limiter_testkit::{Harness, Inside};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Of the suite's own: a database that is named to it may have tables that others use.
const SCHEMA: &str = "limiter_conformance";

fn url() -> String {
    shared::postgres_url().unwrap_or_else(|error| panic!("{error}"))
}

/// The cases are run side by side, on a machine that may be busy.
async fn migrated(builder: PostgresBuilder) -> Postgres {
    let patient = Duration::from_secs(20);
    let builder = builder.schema(SCHEMA).connections(4).timeout(patient).connect_timeout(patient);
    let postgres = builder.build().expect("a store");
    postgres.migrate().await.expect("a schema");
    postgres
}

async fn connect() -> Postgres {
    migrated(Postgres::builder(url())).await
}

/// A look at the table of a store, which is swept all the time or never.
struct Look {
    client: tokio_postgres::Client,
    postgres: Postgres,
    table: &'static str,
    _sweeping: Option<Sweeping>,
}

impl Look {
    async fn at(postgres: &Postgres, table: &'static str) -> Self {
        let (client, connection) =
            tokio_postgres::connect(&url(), tokio_postgres::NoTls).await.expect("a session");
        tokio::spawn(connection);
        Self { client, postgres: postgres.clone(), table, _sweeping: None }
    }
}

#[async_trait]
impl Inside for Look {
    async fn holds(&self, key: &StorageKey) -> bool {
        self.read(key).await.is_some()
    }

    async fn read(&self, key: &StorageKey) -> Option<Vec<u8>> {
        let statement = format!("SELECT a, b, c FROM {SCHEMA}.{} WHERE key = $1", self.table);
        let row = self.client.query_opt(&statement, &[&key.to_bytes()]).await.expect("an answer")?;
        Some(bytes(std::array::from_fn(|column| row.get(column))))
    }

    /// Bytes of another length are no numbers of ours.
    async fn write(&self, key: &StorageKey, bytes: &[u8]) {
        let number = |at: usize| match bytes.get(8 * at..8 * at + 8) {
            Some(number) if bytes.len() == 24 => i64::from_le_bytes(number.try_into().expect("8 bytes")),
            _ => -1,
        };
        let hour = format!(
            "INSERT INTO {SCHEMA}.{} (key, a, b, c, expires) \
             VALUES ($1, $2, $3, $4, extract(epoch FROM now()) * 1000000 + 3600000000) \
             ON CONFLICT (key) DO UPDATE SET a = $2, b = $3, c = $4, expires = excluded.expires",
            self.table
        );
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&key.to_bytes(), &number(0), &number(1), &number(2)];
        self.client.execute(&hour, &values).await.expect("a row");
    }

    /// Columns have types.
    async fn write_another_type(&self, _key: &StorageKey) -> bool {
        false
    }

    /// Of what the columns can hold, the numbers that no state has.
    fn garbage(&self, _algorithm: Algorithm) -> Vec<Vec<u8>> {
        let all = [
            [-1, 0, 0],
            [0, -1, 0],
            [0, 0, -1],
            [1 << 53, 0, 0],
            [0, 1 << 53, 0],
            [0, 0, 1 << 53],
            [i64::MAX; 3],
            [i64::MIN; 3],
        ];
        all.map(bytes).into()
    }

    fn corrupt_states(&self) -> u64 {
        self.postgres.corrupt_states()
    }
}

/// A row's numbers, as a dump would have them.
fn bytes(numbers: [i64; 3]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

async fn inside() -> (Postgres, Look) {
    let postgres = connect().await;
    let look = Look::at(&postgres, "rate_limits").await;
    (postgres, look)
}

async fn expiring() -> (Postgres, Look) {
    let moment = Duration::from_millis(300);
    let builder = Postgres::builder(url()).table("expiring").grace(moment).virtual_expiry(moment);
    let postgres = migrated(builder).await;
    let sweeping = postgres.sweep_every(Duration::from_millis(20)).expect("a task");
    let look = Look::at(&postgres, "expiring").await;
    (postgres, Look { _sweeping: Some(sweeping), ..look })
}

/// A busy machine may take long; what it means that a reply does not come is tested elsewhere.
fn patient() -> StandardConfig {
    let long = Duration::from_secs(20);
    StandardConfig::new().deadline(DeadlineConfig::new().decision(long).upkeep(long))
}

fn main() -> ExitCode {
    let rows = [
        Harness::new("postgres", connect).across_processes().inside(inside).expiring(expiring),
        Harness::new("coalesced", async || Coalesce::new(connect().await, CoalesceConfig::new())),
        Harness::new("standard", async || standard(Arc::new(connect().await), patient())),
        Harness::new("unprepared", async || migrated(Postgres::builder(url()).prepared(false)).await),
        Harness::new("unlogged", async || {
            migrated(Postgres::builder(url()).durability(Durability::Unlogged).table("un\"logged")).await
        }),
        Harness::new("pool", async || {
            let config = Config { url: Some(url()), ..Config::default() };
            let pool = config.create_pool(Some(Runtime::Tokio1), tokio_postgres::NoTls).expect("a pool");
            migrated(Postgres::from_pool(pool)).await
        }),
    ];
    limiter_testkit::main(rows)
}
