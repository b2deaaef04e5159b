//! PostgreSQL, through the suite that every backend passes.

use limiter_postgres::Postgres;
use limiter_testkit::Harness;
use limiter_testkit::servers::shared::postgres_url;
use std::process::ExitCode;

fn main() -> ExitCode {
    limiter_testkit::main([Harness::new("postgres", async || {
        let postgres = Postgres::connect(postgres_url().expect("a server")).expect("a store");
        postgres.migrate().await.expect("a schema");
        postgres
    })])
}
