//! What the tests of the store share: requests, and how they are answered.
#![allow(dead_code, reason = "each test uses its own part")]

use limiter_core::{
    Backend, BackendError, Check, Effect, ErrorKind, Keyspace, Quota, Request, StorageKey, Verdict,
};
use limiter_postgres::{Postgres, PostgresBuilder};
use limiter_testkit::servers;
use std::time::{Duration, Instant};

pub(crate) fn quota(text: &str) -> Quota {
    text.parse().expect("a quota that is accepted")
}

/// A key of a namespace of its own.
pub(crate) fn key(quota: Quota, key: &str) -> StorageKey {
    Keyspace::new("limiter-postgres-tests", "rule", quota.algorithm())
        .expect("short names")
        .key(key.as_bytes())
}

pub(crate) fn check(text: &str, name: &str, cost: u64) -> Check {
    let quota = quota(text);
    Check { key: key(quota, name), quota, cost }
}

pub(crate) fn request(text: &str, name: &str) -> Request {
    Request::one(check(text, name, 1)).expect("one check")
}

/// The answer to one permit of a key.
pub(crate) async fn ask(postgres: &Postgres, text: &str, name: &str) -> Result<Verdict, BackendError> {
    answer(postgres, &request(text, name)).await
}

pub(crate) async fn answer(postgres: &Postgres, request: &Request) -> Result<Verdict, BackendError> {
    postgres.decide(std::slice::from_ref(request)).await.pop().expect("one answer")
}

/// How many permits of a key are taken.
pub(crate) async fn taken(postgres: &Postgres, text: &str, name: &str) -> u64 {
    let peek = Request::one(check(text, name, 0)).expect("one check");
    let decision = answer(postgres, &peek).await.expect("an answer").decisions()[0];
    decision.limit - decision.remaining
}

/// Runs statements from outside; they must succeed.
pub(crate) fn sql(server: &servers::Postgres, statements: &str) -> String {
    server.sql(statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
}

pub(crate) fn start() -> servers::Postgres {
    servers::Postgres::start().unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) async fn migrated(builder: PostgresBuilder) -> Postgres {
    let postgres = builder.build().expect("a store");
    postgres.migrate().await.expect("a schema");
    postgres
}

/// A server and a store on it.
pub(crate) async fn fresh() -> (servers::Postgres, Postgres) {
    let server = start();
    let postgres = migrated(patient(server.url())).await;
    (server, postgres)
}

/// A store whose answers may take two seconds: the machine may be busy.
pub(crate) fn patient(url: String) -> PostgresBuilder {
    Postgres::builder(url).timeout(Duration::from_secs(2)).connect_timeout(Duration::from_secs(5))
}

/// A session of the server beside the store's, with its own transaction.
pub(crate) async fn session(server: &servers::Postgres) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.expect("a session");
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    client
}

pub(crate) fn is(error: &BackendError, kind: ErrorKind, effect: Effect, code: &str) {
    let shown = format!("{error}");
    assert_eq!((error.kind(), error.effect()), (kind, effect), "{shown}");
    assert!(shown.contains(code), "{shown}: not {code}");
}

/// Asks until the store answers, and how long that took.
pub(crate) async fn until_answered(postgres: &Postgres, text: &str, name: &str, most: Duration) -> Duration {
    let start = Instant::now();
    loop {
        match ask(postgres, text, name).await {
            Ok(_) => return start.elapsed(),
            Err(error) if start.elapsed() > most => panic!("no answer within {most:?}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
