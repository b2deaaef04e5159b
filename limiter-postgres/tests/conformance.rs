//! PostgreSQL, through the suite that every backend passes, by every way that leads to it.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use limiter_core::{Coalesce, CoalesceConfig};
use limiter_postgres::deadpool_postgres::{Config, Runtime};
use limiter_postgres::{Durability, Postgres, PostgresBuilder};
use limiter_testkit::Harness;
use limiter_testkit::servers::shared;
use std::process::ExitCode;
use std::time::Duration;

fn url() -> String {
    shared::postgres_url().unwrap_or_else(|error| panic!("{error}"))
}

/// The cases are run side by side, on a machine that may be busy.
async fn migrated(builder: PostgresBuilder) -> Postgres {
    let patient = Duration::from_secs(20);
    let builder = builder.connections(4).timeout(patient).connect_timeout(patient);
    let postgres = builder.build().expect("a store");
    postgres.migrate().await.expect("a schema");
    postgres
}

async fn connect() -> Postgres {
    migrated(Postgres::builder(url())).await
}

fn main() -> ExitCode {
    let rows = [
        Harness::new("postgres", connect).across_processes(),
        Harness::new("coalesced", async || Coalesce::new(connect().await, CoalesceConfig::new())),
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
