//! Connections that are refused, lost, or not to be had.

use crate::common::{
    answer, ask, check, fresh, is, migrated, patient, request, sql, start, taken, until_answered,
};
use crate::{MANY, TEN, as_user, holds, refused, refused_while_it_waits, took_only};
use limiter_core::{BackendError, Effect, ErrorKind, Request};
use limiter_testkit::{Direction, Proxy, servers};
use std::time::{Duration, Instant};

#[tokio::test]
async fn too_many_connections() {
    let server = servers::Postgres::builder()
        .config("max_connections", "5")
        .config("superuser_reserved_connections", "3")
        .start()
        .unwrap_or_else(|error| panic!("{error}"));
    migrated(patient(server.url())).await;
    sql(
        &server,
        "CREATE ROLE app LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app",
    );
    let url = server.url().replace("limiter@", "app@");
    let mut others = Vec::new();
    let error = loop {
        let postgres = patient(url.clone()).build().expect("a store");
        match ask(&postgres, TEN, "a").await {
            Ok(_) => others.push(postgres),
            Err(error) => break error,
        }
        assert!(others.len() < 10, "never too many");
    };
    is(&error, ErrorKind::Unavailable, Effect::NotApplied, "53300");
}

/// A connection that is not to be had holds up no one for whom there is one.
#[tokio::test]
async fn a_full_server_serves_those_who_are_connected() {
    let server = servers::Postgres::builder()
        .config("max_connections", "8")
        .config("superuser_reserved_connections", "0")
        .start()
        .unwrap_or_else(|error| panic!("{error}"));
    let postgres = migrated(patient(server.url())).await;
    let mut others = Vec::new();
    while let Ok((client, connection)) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await {
        others.push(client);
        tokio::spawn(connection);
        assert!(others.len() < 10, "never too many");
    }
    let both = async || {
        let (one, other) = tokio::join!(ask(&postgres, MANY, "a"), ask(&postgres, MANY, "a"));
        let errors: Vec<BackendError> = [one, other].into_iter().filter_map(Result::err).collect();
        let [error] = &errors[..] else { panic!("one of two has a connection: {errors:?}") };
        is(error, ErrorKind::Unavailable, Effect::NotApplied, "53300");
    };
    // Until the pauses are long.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(700) {
        both().await;
    }
    let attempts = || server.log().matches("sorry, too many clients already").count();
    let (before, began) = (attempts(), Instant::now());
    while began.elapsed() < Duration::from_millis(300) {
        let (one, other) =
            tokio::join!(ask(&postgres, "1000000/day", "c"), ask(&postgres, "1000000/day", "c"));
        assert!(one.is_ok() || other.is_ok(), "the connection was idle: {one:?} {other:?}");
    }
    let attempts = attempts() - before;
    assert!(attempts <= 4, "{attempts} attempts to connect: an answer by another connection is no sign");
}

#[tokio::test]
async fn a_session_that_is_ended_may_have_recorded() {
    let (server, postgres) = fresh().await;
    let _ = ask(&postgres, TEN, "a").await.expect("an answer");
    let (_server, error) = refused_while_it_waits(server, &postgres, "pg_terminate_backend").await;
    is(&error, ErrorKind::Unavailable, Effect::Unknown, "57P01");
    // The next caller has a new connection.
    assert!(ask(&postgres, TEN, "b").await.expect("an answer").allowed());
}

#[tokio::test]
async fn a_crash_of_another_session_and_the_start_after_it() {
    let (server, postgres) = fresh().await;
    let _ = ask(&postgres, TEN, "a").await.expect("an answer");
    // The server ends all sessions where one crashed, and recovers.
    let pid =
        sql(&server, "SELECT pid FROM pg_stat_activity WHERE application_name = 'limiter-postgres' LIMIT 1");
    let _holder = holds(&server, ":a").await;
    let crash = tokio::task::spawn_blocking(move || {
        while sql(&server, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "0" {}
        let other = sql(&server, "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'");
        assert_ne!(other, pid);
        let killed = std::process::Command::new("kill").args(["-KILL", &other]).status();
        assert!(killed.is_ok_and(|status| status.success()));
        server
    });
    // The server says 57P02 in a notice, and closes.
    is(&refused(&postgres).await, ErrorKind::Unavailable, Effect::Unknown, "closed");
    let _server = crash.await.expect("a thread");
    let mut seen = Vec::new();
    let began = Instant::now();
    while let Err(error) = ask(&postgres, TEN, "b").await {
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied), "{error}");
        seen.push(error.to_string());
        assert!(began.elapsed() < Duration::from_secs(20), "{seen:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(seen.iter().any(|error| error.contains("57P03")), "{seen:?}");
}

#[tokio::test]
async fn a_read_only_server() {
    let (server, postgres) = fresh().await;
    let _ = ask(&postgres, TEN, "a").await.expect("an answer");
    sql(&server, "ALTER ROLE limiter SET default_transaction_read_only = on");
    let postgres = patient(server.url()).build().expect("a store with new sessions");
    is(&refused(&postgres).await, ErrorKind::Unavailable, Effect::NotApplied, "25006");
    sql(&server, "BEGIN READ WRITE; ALTER ROLE limiter RESET default_transaction_read_only; COMMIT");
    // The connection was given up with its setting.
    took_only(&postgres, 1).await;
}

/// Each connection is given up, as the next may lead elsewhere; but not one per call.
#[tokio::test]
async fn a_read_only_server_is_not_connected_to_by_every_call() {
    let (server, _) = fresh().await;
    sql(&server, "ALTER ROLE limiter SET default_transaction_read_only = on");
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    let url = server.url().replace(&server.addr().to_string(), &proxy.addr().to_string());
    let postgres = patient(url).build().expect("a store");
    let (began, mut calls) = (Instant::now(), 0_u64);
    while began.elapsed() < Duration::from_secs(1) {
        is(&refused(&postgres).await, ErrorKind::Unavailable, Effect::NotApplied, "25006");
        calls += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let connections = proxy.accepted();
    assert!(calls > 2 * connections && connections <= 12, "{connections} connections for {calls} calls");
    sql(&server, "BEGIN READ WRITE; ALTER ROLE limiter RESET default_transaction_read_only; COMMIT");
    let took = until_answered(&postgres, TEN, "b", Duration::from_secs(10)).await;
    assert!(took < Duration::from_millis(900), "{took:?}");
    // Which ends the pauses, the next of which is short again.
    sql(&server, "ALTER ROLE limiter SET default_transaction_read_only = on");
    sql(
        &server,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'limiter-postgres'",
    );
    while ask(&postgres, TEN, "a").await.is_err_and(|error| error.effect() == Effect::Unknown) {}
    let before = proxy.accepted();
    tokio::time::sleep(Duration::from_millis(15)).await;
    is(&refused(&postgres).await, ErrorKind::Unavailable, Effect::NotApplied, "25006");
    assert_eq!(proxy.accepted(), before + 1);
}

#[tokio::test]
async fn a_login_that_is_refused() {
    let server = start();
    sql(&server, "CREATE ROLE app LOGIN PASSWORD 'right7'");
    let hba = server.folder().join("data/pg_hba.conf");
    std::fs::write(&hba, "local all limiter trust\nhost all limiter 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        .expect("a file of the server");
    sql(&server, "SELECT pg_reload_conf()");
    migrated(patient(server.url())).await;
    for (login, code) in [("app:wrong-canary", "28P01"), ("nobody:wrong-canary", "28P01")] {
        let postgres = as_user(&server, login);
        let error = refused(&postgres).await;
        is(&error, ErrorKind::Config, Effect::NotApplied, code);
        let shown = format!("{error} {error:?} {:?} {postgres:?}", std::error::Error::source(&error));
        assert!(!shown.contains("canary"), "{shown}");
    }
    std::fs::write(&hba, "local all limiter trust\nhost all limiter 127.0.0.1/32 trust\n").expect("a file");
    sql(&server, "SELECT pg_reload_conf()");
    while !refused(&as_user(&server, "app:right7")).await.to_string().contains("28000") {}
    is(&refused(&as_user(&server, "app:right7")).await, ErrorKind::Config, Effect::NotApplied, "28000");
    std::fs::write(&hba, "local all limiter trust\nhost all all 127.0.0.1/32 trust\n").expect("a file");
    sql(&server, "SELECT pg_reload_conf()");
    let url = server.url().replace("/postgres", "/nowhere");
    let postgres = patient(url).build().expect("a store");
    is(&refused(&postgres).await, ErrorKind::Config, Effect::NotApplied, "3D000");
}

#[tokio::test]
async fn no_permission_and_no_schema() {
    let (server, _) = fresh().await;
    sql(&server, "CREATE ROLE app LOGIN");
    let postgres = as_user(&server, "app");
    is(&refused(&postgres).await, ErrorKind::Config, Effect::NotApplied, "42501");
    sql(&server, "DROP TABLE rate_limits");
    let postgres = patient(server.url()).build().expect("a store");
    is(&refused(&postgres).await, ErrorKind::Config, Effect::NotApplied, "42P01");
    let postgres = patient(server.url()).table("other").build().expect("a store");
    let error = ask(&postgres, "10/day fixed-window", "a").await.expect_err("no function");
    is(&error, ErrorKind::Config, Effect::NotApplied, "42883");
    let postgres = patient(server.url()).schema("nowhere").build().expect("a store");
    let error = ask(&postgres, "10/day fixed-window", "a").await.expect_err("no schema");
    is(&error, ErrorKind::Config, Effect::NotApplied, "3F000");
}

#[tokio::test]
async fn refused_and_reset_after_it_was_sent() {
    let (server, _) = fresh().await;
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    let url = server.url().replace(&server.addr().to_string(), &proxy.addr().to_string());
    proxy.refuse();
    let postgres = patient(url).build().expect("a store");
    is(&refused(&postgres).await, ErrorKind::Unavailable, Effect::NotApplied, "connection refused");
    proxy.heal();
    until_answered(&postgres, TEN, "b", Duration::from_secs(5)).await;
    // The reply is cut, and what was asked is recorded.
    proxy.cut_reply_after(0);
    is(&refused(&postgres).await, ErrorKind::Unavailable, Effect::Unknown, "");
    took_only(&postgres, 1).await;
    // It does not come at all.
    proxy.blackhole(Direction::ToClient);
    is(&refused(&postgres).await, ErrorKind::Timeout, Effect::Unknown, "no reply in time");
    proxy.heal();
    took_only(&postgres, 2).await;
}

#[tokio::test]
async fn a_request_that_no_trip_carries_and_one_that_is_late() {
    let (_server, postgres) = fresh().await;
    let many = (0..4_097).map(|i| check(TEN, &i.to_string(), 1));
    let error = answer(&postgres, &Request::new(many).expect("a request")).await.expect_err("too many");
    is(&error, ErrorKind::Config, Effect::NotApplied, "4097 checks are above 4096");
    let late = request(TEN, "a").with_deadline(tokio::time::Instant::now());
    is(
        &answer(&postgres, &late).await.expect_err("too late"),
        ErrorKind::Timeout,
        Effect::NotApplied,
        "before it was sent",
    );
    assert_eq!(taken(&postgres, TEN, "a").await, 0);
}
