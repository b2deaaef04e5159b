//! The rows of the error table, reached on a real server: what each is called, and whether it may have been recorded.
//! 08 and 26, which poolers answer, are in `pooler.rs`.
//!
//! Not reached as they stand: 40001, which no transaction of ours can come by at READ COMMITTED, is raised by a trigger.
//! 57P02 comes in a notice, behind which the connection is closed. 57P05 ends sessions that are idle: a caller finds
//! another connection, or is ended on it as by 57P01. 53100 to 53400 but for 53300 would need a full disk or no memory.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{ask, check, fresh, is, migrated, patient, session, sql, start, taken, until_answered};
use futures_util::FutureExt;
use limiter_core::{Backend, BackendError, Effect, ErrorKind, Request};
use limiter_postgres::Postgres;
use limiter_testkit::{Direction, Proxy, servers};
use std::time::{Duration, Instant};

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

#[tokio::test]
async fn a_locked_row_fails_alone() {
    let (server, postgres) = fresh().await;
    for key in ["a", "b", "c"] {
        let _ = ask(&postgres, TEN, key).await.expect("an answer");
    }
    let holder = holds(&server, ":a").await;
    let until = tokio::time::Instant::now() + Duration::from_millis(600);
    let one = |key, cost| Request::one(check(TEN, key, cost)).expect("a request").with_deadline(until);
    let both =
        Request::new([check(TEN, "a", 1), check(TEN, "c", 1)]).expect("a request").with_deadline(until);
    let batch = [one("b", 1), one("a", 1), one("new", 1), one("a", 2), both, one("c", 1), one("b", 1)];
    let asked = Instant::now();
    let answers = postgres.decide(&batch).await;
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
    for stuck in [1, 3, 4] {
        let error = answers[stuck].as_ref().expect_err("an answer without the row");
        assert_eq!(error.effect(), Effect::NotApplied, "{error}");
        assert!(matches!(error.kind(), ErrorKind::Contention | ErrorKind::Timeout), "{error}");
    }
    is(answers[1].as_ref().expect_err("no answer"), ErrorKind::Contention, Effect::NotApplied, "55P03");
    for free in [0, 2, 5, 6] {
        assert!(answers[free].as_ref().is_ok_and(limiter_core::Verdict::allowed), "{free}: {answers:?}");
    }
    holder.batch_execute("ROLLBACK").await.expect("locks that go");
    for (key, expected) in [("a", 1), ("b", 3), ("c", 2), ("new", 1)] {
        assert_eq!(taken(&postgres, TEN, key).await, expected, "of {key}");
    }
}

/// More of them than there are connections; and who comes later finds one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_locked_rows_fail_alone() {
    let (server, postgres) = fresh().await;
    let by = |millis| tokio::time::Instant::now() + Duration::from_millis(millis);
    for stuck in [24, 48, 127] {
        let names: Vec<String> = (0..stuck).map(|i| format!("{stuck} stuck {i}")).collect();
        for name in &names {
            let _ = ask(&postgres, TEN, name).await.expect("an answer");
        }
        let holder = holds(&server, "stuck%").await;
        let free = (stuck..128).map(|i| format!("{stuck} free {i}"));
        let until = by(1_500);
        let batch: Vec<Request> = names
            .iter()
            .cloned()
            .chain(free)
            .map(|name| common::request(TEN, &name).with_deadline(until))
            .collect();
        let answers = postgres.decide(&batch).await;
        assert!(tokio::time::Instant::now() < until + Duration::from_secs(1));
        for (i, answer) in answers.iter().enumerate() {
            match answer {
                Ok(verdict) => assert!(i >= stuck && verdict.allowed(), "{i} of {stuck}"),
                Err(error) => {
                    assert!(i < stuck, "{i} of {stuck}: {error}");
                    assert_eq!(error.effect(), Effect::NotApplied, "{error}");
                }
            }
        }
        let waiting = {
            let (postgres, until) = (postgres.clone(), by(2_000));
            let batch: Vec<Request> = batch.into_iter().map(|request| request.with_deadline(until)).collect();
            tokio::spawn(async move { postgres.decide(&batch).await })
        };
        while sql(&server, "SELECT count(*) > 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "f"
        {
            assert!(!waiting.is_finished(), "none waits by itself");
        }
        let asked = Instant::now();
        assert!(ask(&postgres, TEN, &format!("{stuck} later")).await.expect("an answer").allowed());
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
        // What is freed in time is no error.
        holder.batch_execute("ROLLBACK").await.expect("locks that go");
        for answer in waiting.await.expect("a task") {
            assert!(answer.expect("an answer").allowed());
        }
    }
}

#[tokio::test]
async fn a_row_that_is_freed_in_time_is_no_error() {
    let (server, postgres) = fresh().await;
    let _ = ask(&postgres, TEN, "a").await.expect("an answer");
    let holder = holds(&server, ":a").await;
    let freed = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(900)).await;
        holder.batch_execute("ROLLBACK").await.expect("locks that go");
    });
    // The first attempt waits a third of the two seconds, the second what is left.
    assert!(ask(&postgres, TEN, "a").await.expect("an answer").allowed());
    freed.await.expect("a task");
    assert_eq!(taken(&postgres, TEN, "a").await, 2);
}

#[tokio::test]
async fn a_cancelled_statement() {
    let (server, postgres) = fresh().await;
    let _ = ask(&postgres, TEN, "a").await.expect("an answer");
    let _holder = holds(&server, ":a").await;
    let cancelling = tokio::task::spawn_blocking(move || {
        while sql(
            &server,
            "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                   WHERE application_name = 'limiter-postgres' AND wait_event_type = 'Lock'",
        ) == "0"
        {}
        server
    });
    is(&refused(&postgres).await, ErrorKind::Timeout, Effect::NotApplied, "57014");
    let server = cancelling.await.expect("a thread");
    sql(
        &server,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'",
    );
    took_only(&postgres, 1).await;
}

#[tokio::test]
async fn a_slow_statement_is_ended_by_the_server() {
    let (server, postgres) = fresh().await;
    let _ = ask(&postgres, TEN, "a").await.expect("an answer");
    sql(
        &server,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(9); RETURN NEW; END $$; \
                  CREATE TRIGGER slow BEFORE UPDATE ON rate_limits FOR EACH ROW EXECUTE FUNCTION slow()",
    );
    let asked = Instant::now();
    let until = tokio::time::Instant::now() + Duration::from_millis(400);
    let request = common::request(TEN, "a").with_deadline(until);
    let error = common::answer(&postgres, &request).await.expect_err("no answer");
    is(&error, ErrorKind::Timeout, Effect::NotApplied, "57014");
    assert!(asked.elapsed() < Duration::from_millis(400), "its caller had given up: {:?}", asked.elapsed());
    sql(&server, "DROP TRIGGER slow ON rate_limits");
    took_only(&postgres, 1).await;
}

#[tokio::test]
async fn a_serialization_failure_and_a_deadlock() {
    let (server, postgres) = fresh().await;
    let _ = ask(&postgres, TEN, "a").await.expect("an answer");
    // As the server would say it; once, it goes unnoticed.
    for (code, times, is_noticed) in
        [("40001", 1, false), ("40P01", 1, false), ("40001", 2, true), ("40P01", 2, true)]
    {
        sql(
            &server,
            &format!(
                "DROP SEQUENCE IF EXISTS failures; CREATE SEQUENCE failures; \
            CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            IF nextval('failures') <= {times} THEN RAISE EXCEPTION 'bent' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$; \
            CREATE OR REPLACE TRIGGER fail BEFORE UPDATE ON rate_limits FOR EACH ROW EXECUTE FUNCTION fail()"
            ),
        );
        let before = taken(&postgres, TEN, "a").await;
        let answer = ask(&postgres, TEN, "a").await;
        if is_noticed {
            is(&answer.expect_err("two failures"), ErrorKind::Contention, Effect::NotApplied, code);
        } else {
            assert!(answer.expect("an answer at the second attempt").allowed());
        }
        assert_eq!(taken(&postgres, TEN, "a").await, before + u64::from(!is_noticed), "{code} {times}");
    }
}

/// With another program, that takes rows in an order of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_with_others_goes_unnoticed() {
    let (server, _) = fresh().await;
    // Ours is the transaction that looks for it first, and is ended.
    sql(&server, "ALTER ROLE limiter SET deadlock_timeout = '400ms'");
    let postgres = patient(server.url()).timeout(Duration::from_secs(20)).build().expect("a store");
    for key in ["a", "b"] {
        let _ = ask(&postgres, TEN, key).await.expect("an answer");
    }
    let other = session(&server).await;
    let take = |key: &str| {
        format!("SELECT 1 FROM rate_limits WHERE convert_from(key, 'UTF8') LIKE '%:{key}' FOR UPDATE")
    };
    let begin = format!("SET deadlock_timeout = '1min'; BEGIN; {}", take("b"));
    other.batch_execute(&begin).await.expect("a lock");
    let batch = ["a", "b"].map(|key| common::request(TEN, key));
    let deciding = tokio::spawn(async move { (postgres.decide(&batch).await, postgres) });
    while sql(&server, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "0" {
        assert!(!deciding.is_finished(), "it does not wait");
    }
    other.batch_execute(&take("a")).await.expect("a lock, once our transaction is ended");
    other.batch_execute("COMMIT").await.expect("locks that go");
    let (answers, postgres) = deciding.await.expect("a task");
    for (answer, key) in answers.into_iter().zip(["a", "b"]) {
        assert!(answer.expect("an answer at the second attempt").allowed());
        assert_eq!(taken(&postgres, TEN, key).await, 2, "of {key}");
    }
    assert!(server.log().contains("deadlock detected"));
}

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
    let _holder = holds(&server, ":a").await;
    let ending = tokio::task::spawn_blocking(move || {
        while sql(
            &server,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE application_name = 'limiter-postgres' AND wait_event_type = 'Lock'",
        ) == "0"
        {}
        server
    });
    is(&refused(&postgres).await, ErrorKind::Unavailable, Effect::Unknown, "57P01");
    let server = ending.await.expect("a thread");
    sql(
        &server,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'",
    );
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
    let error =
        common::answer(&postgres, &Request::new(many).expect("a request")).await.expect_err("too many");
    is(&error, ErrorKind::Config, Effect::NotApplied, "4097 checks are above 4096");
    let late = common::request(TEN, "a").with_deadline(tokio::time::Instant::now());
    is(
        &common::answer(&postgres, &late).await.expect_err("too late"),
        ErrorKind::Timeout,
        Effect::NotApplied,
        "before it was sent",
    );
    assert_eq!(taken(&postgres, TEN, "a").await, 0);
}

/// Who has more time goes without who had not.
#[tokio::test]
async fn a_short_deadline_fails_no_other_request_of_its_trip() {
    let (server, postgres) = fresh().await;
    let by = |millis| tokio::time::Instant::now() + Duration::from_millis(millis);
    let one = |key: &str, millis| common::request(TEN, key).with_deadline(by(millis));
    // While it connects.
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    let url = server.url().replace(&server.addr().to_string(), &proxy.addr().to_string());
    proxy.delay(Direction::Both, Duration::from_millis(30));
    let far = patient(url).timeout(Duration::from_secs(5)).build().expect("a store");
    let answers = far.decide(&[one("a", 5_000), one("b", 5), one("c", 5_000)]).await;
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    is(answers[1].as_ref().expect_err("too late"), ErrorKind::Timeout, Effect::NotApplied, "");
    assert_eq!(proxy.accepted(), 1, "connections");
    // While the server works.
    sql(
        &server,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END $$; \
                  CREATE TRIGGER slow BEFORE INSERT ON rate_limits FOR EACH ROW EXECUTE FUNCTION slow()",
    );
    let keys: Vec<String> = (0..10).map(|i| format!("slow {i}")).collect();
    let mut batch: Vec<Request> = keys.iter().map(|key| one(key, 2_000)).collect();
    // Of one row's, and of an entry's.
    batch.extend([one("soon", 30), one("slow 0", 30)]);
    let asked = Instant::now();
    let answers = postgres.decide(&batch).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    for late in [10, 11] {
        is(answers[late].as_ref().expect_err("too late"), ErrorKind::Timeout, Effect::NotApplied, "57014");
    }
    for (answer, key) in answers.iter().zip(&keys) {
        assert!(answer.as_ref().is_ok_and(limiter_core::Verdict::allowed), "{key}: {answers:?}");
        assert_eq!(taken(&postgres, TEN, key).await, 1, "of {key}");
    }
    // Who has no time left to do again what was done in vain is told at once.
    let batch: Vec<Request> =
        (0..200).map(|i| one(&format!("many {i}"), if i == 0 { 400 } else { 500 })).collect();
    let asked = Instant::now();
    for answer in postgres.decide(&batch).await {
        is(&answer.expect_err("too late"), ErrorKind::Timeout, Effect::NotApplied, "57014");
    }
    assert!(asked.elapsed() < Duration::from_millis(400), "{:?}", asked.elapsed());
}

/// Damage that numbers out of range do not show.
#[tokio::test]
async fn a_log_whose_entries_are_missing_is_a_fresh_one() {
    let (server, postgres) = fresh().await;
    let log = "5/day sliding-log";
    for (i, damage) in
        ["DELETE FROM rate_limits_log", "UPDATE rate_limits SET b = 0", "UPDATE rate_limits SET c = 0"]
            .into_iter()
            .enumerate()
    {
        let key = i.to_string();
        for _ in 0..5 {
            assert!(ask(&postgres, log, &key).await.expect("an answer").allowed());
        }
        assert!(!ask(&postgres, log, &key).await.expect("an answer").allowed());
        sql(&server, damage);
        let before = postgres.corrupt_states();
        assert_eq!(taken(&postgres, log, &key).await, 0, "{damage}");
        assert_eq!(postgres.corrupt_states() - before, 1, "{damage}: seen by a peek");
        assert!(ask(&postgres, log, &key).await.expect("an answer").allowed(), "{damage}");
        assert_eq!(postgres.corrupt_states() - before, 2, "{damage}: seen by what heals it");
        assert_eq!(taken(&postgres, log, &key).await, 1, "{damage}");
        for _ in 0..4 {
            assert!(ask(&postgres, log, &key).await.expect("an answer").allowed(), "{damage}");
        }
        assert!(!ask(&postgres, log, &key).await.expect("an answer").allowed(), "{damage}");
        assert_eq!(postgres.corrupt_states() - before, 2, "{damage}: healed");
    }
}

/// Also with connections that were made where there was one.
#[test]
fn without_a_runtime_nothing_is_sent() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (_server, postgres) = runtime.block_on(fresh());
    let _ = runtime.block_on(ask(&postgres, TEN, "a")).expect("an answer");
    let now = |answer: Option<BackendError>| {
        is(&answer.expect("an error, at once"), ErrorKind::Config, Effect::NotApplied, "runtime");
    };
    let asked = common::request(TEN, "a");
    now(common::answer(&postgres, &asked).now_or_never().and_then(Result::err));
    now(postgres.reset(&[asked.checks()[0].key.clone()]).now_or_never().and_then(Result::err));
    now(postgres.ready().now_or_never().and_then(Result::err));
    assert_eq!(runtime.block_on(taken(&postgres, TEN, "a")), 1);
}

/// By whoever has more permissions than sense.
#[tokio::test]
async fn a_table_that_was_altered() {
    let (server, postgres) = fresh().await;
    postgres.ready().await.expect("a store that can be used");
    sql(&server, "ALTER TABLE rate_limits_meta ALTER version TYPE bigint");
    let error = postgres.ready().await.expect_err("another type than was prepared for");
    is(&error, ErrorKind::Config, Effect::NotApplied, "0A000");
    sql(&server, "ALTER TABLE rate_limits ADD CONSTRAINT own CHECK (expires < 0) NOT VALID");
    is(&refused(&postgres).await, ErrorKind::Corrupt, Effect::NotApplied, "23514");
    sql(
        &server,
        "ALTER TABLE rate_limits DROP CONSTRAINT own; TRUNCATE rate_limits; ALTER TABLE rate_limits ALTER expires TYPE int",
    );
    is(&refused(&postgres).await, ErrorKind::Corrupt, Effect::NotApplied, "22003");
    sql(&server, "ALTER TABLE rate_limits ALTER expires TYPE bigint");
    took_only(&postgres, 0).await;
}

#[tokio::test]
async fn a_table_that_is_damaged_and_one_that_is_gone() {
    let (server, postgres) = fresh().await;
    let _ = ask(&postgres, TEN, "a").await.expect("an answer");
    let path =
        server.folder().join("data").join(sql(&server, "SELECT pg_relation_filepath('rate_limits_pkey')"));
    for code in ["XX001", "58P01"] {
        // Nothing is written anew behind it.
        sql(&server, "CHECKPOINT");
        server.kill();
        if code == "XX001" {
            std::fs::write(&path, [0x5a; 1 << 14]).expect("a file of the server's");
        } else {
            std::fs::remove_file(&path).expect("a file of the server's");
        }
        server.restart().unwrap_or_else(|error| panic!("{error}"));
        let postgres = patient(server.url()).build().expect("a store");
        is(&refused(&postgres).await, ErrorKind::Unavailable, Effect::NotApplied, code);
    }
}
