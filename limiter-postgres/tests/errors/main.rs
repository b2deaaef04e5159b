//! The rows of the error table, reached on a real server: what each is called, and whether it may have been recorded.
//! 08 and 26, which poolers answer, are in `pooler.rs`.
//!
//! Not reached as they stand: 40001, which no transaction of ours can come by at READ COMMITTED, is raised by a trigger.
//! 57P02 comes in a notice, behind which the connection is closed. 57P05 ends sessions that are idle: a caller finds
//! another connection, or is ended on it as by 57P01. 53100 to 53400 but for 53300 would need a full disk or no memory.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod connections;
mod deadlines;
mod rows;
mod schema;

use common::{ask, patient, session, sql, taken, until_answered};
use limiter_core::BackendError;
use limiter_postgres::Postgres;
use limiter_testkit::servers;
use std::time::Duration;

const TEN: &str = "10/day";
const MANY: &str = "1000000/day";

async fn refused(postgres: &Postgres) -> BackendError {
    ask(postgres, TEN, "a").await.expect_err("a refusal")
}

/// After a refusal that is not applied: nothing more is taken once the cause is gone.
async fn took_only(postgres: &Postgres, expected: u64) {
    until_answered(postgres, TEN, "b", Duration::from_secs(10)).await;
    assert_eq!(taken(postgres, TEN, "a").await, expected);
}

/// A store whose user is not the server's owner.
fn as_user(server: &servers::Postgres, user: &str) -> Postgres {
    patient(server.url().replace("limiter@", &format!("{user}@"))).build().expect("a store")
}

/// Holds the rows of keys until the session ends.
async fn holds(server: &servers::Postgres, like: &str) -> tokio_postgres::Client {
    let holder = session(server).await;
    let statement =
        format!("BEGIN; SELECT 1 FROM rate_limits WHERE convert_from(key, 'UTF8') LIKE '%{like}' FOR UPDATE");
    holder.batch_execute(&statement).await.expect("locks");
    holder
}

/// What a caller is answered whose session meets this function of the server while it waits for a locked row.
async fn refused_while_it_waits(
    server: servers::Postgres,
    postgres: &Postgres,
    function: &'static str,
) -> (servers::Postgres, BackendError) {
    let _holder = holds(&server, ":a").await;
    let meeting = tokio::task::spawn_blocking(move || {
        let statement = format!(
            "SELECT count({function}(pid)) FROM pg_stat_activity \
             WHERE application_name = 'limiter-postgres' AND wait_event_type = 'Lock'"
        );
        while sql(&server, &statement) == "0" {}
        server
    });
    let error = refused(postgres).await;
    let server = meeting.await.expect("a thread");
    sql(
        &server,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'",
    );
    (server, error)
}
