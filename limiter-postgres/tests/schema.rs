//! The schema: made by many at once, under any name, checked by `ready`, and swept.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{ask, check, fresh, is, migrated, patient, sql, start, taken};
use limiter_core::{Backend, Effect, ErrorKind, Request};
use limiter_postgres::{Durability, Postgres};
use limiter_testkit::servers;
use std::time::{Duration, Instant};

const TEN: &str = "10/day";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_migrate_at_once() {
    let server = start();
    let stores: Vec<_> = (0..12)
        .map(|_| {
            let store = patient(server.url()).connect_timeout(Duration::from_secs(20)).schema("limits");
            store.timeout(Duration::from_millis(900)).build().expect("a store")
        })
        .collect();
    // At first, and once their sessions have the limits of decisions, which another migration takes longer than.
    for is_used in [false, true] {
        let first = common::session(&server).await;
        if is_used {
            for store in &stores {
                let _ = ask(store, TEN, "used").await.expect("an answer");
            }
            let lock = r#"BEGIN; SELECT pg_advisory_xact_lock(hashtextextended(E'limiter-postgres "limits"."rate_limits"', 0))"#;
            first.batch_execute(lock).await.expect("a lock");
        }
        let migrating: Vec<_> =
            stores.iter().cloned().map(|store| tokio::spawn(async move { store.migrate().await })).collect();
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        while is_used && sql(&server, waiting) != "12" {
            let is_over = migrating.iter().any(tokio::task::JoinHandle::is_finished);
            assert!(!is_over, "it does not wait for another's migration");
        }
        tokio::time::sleep(Duration::from_secs(u64::from(is_used))).await;
        drop(first);
        for one in migrating {
            one.await.expect("a task").expect("a schema");
        }
    }
    let postgres = patient(server.url()).schema("limits").build().expect("a store");
    assert!(ask(&postgres, TEN, "a").await.expect("an answer").allowed());
    postgres.migrate().await.expect("once more");
    assert_eq!(taken(&postgres, TEN, "a").await, 1, "it keeps what is there");
    assert_eq!(sql(&server, "SELECT version FROM limits.rate_limits_meta"), "1");
}

#[tokio::test]
async fn any_name_is_a_name() {
    let server = start();
    for (schema, table) in [
        ("it's \"here\"", "rate \"limits\"; DROP TABLE x; --"),
        ("{table}", "{log} \\ $do$ $body$"),
        ("Ünï", "select"),
    ] {
        let postgres = migrated(patient(server.url()).schema(schema).table(table)).await;
        postgres.ready().await.expect("a store that can be used");
        assert!(ask(&postgres, "1/day sliding-log", "a").await.expect("an answer").allowed());
        assert!(!ask(&postgres, "1/day sliding-log", "a").await.expect("an answer").allowed());
        let _deleted = postgres.sweep().await.expect("a sweep");
    }
}

#[tokio::test]
async fn ready_says_what_is_wrong() {
    let server = start();
    let postgres = patient(server.url()).build().expect("a store");
    let wrong = async |postgres: &Postgres, words: &str| {
        let error = postgres.ready().await.expect_err(words);
        is(&error, ErrorKind::Config, Effect::NotApplied, words);
    };
    wrong(&postgres, "the schema is not there: call migrate()").await;
    postgres.migrate().await.expect("a schema");
    postgres.ready().await.expect("a store that can be used");

    sql(&server, "UPDATE rate_limits_meta SET version = 0");
    wrong(&postgres, "version 0, below 1: call migrate()").await;
    sql(&server, "UPDATE rate_limits_meta SET version = 2");
    wrong(&postgres, "version 2, above 1").await;
    is(
        &postgres.migrate().await.expect_err("a newer schema"),
        ErrorKind::Config,
        Effect::NotApplied,
        "newer version",
    );
    sql(&server, "DELETE FROM rate_limits_meta");
    wrong(&postgres, "not there in full: call migrate()").await;
    postgres.migrate().await.expect("a schema");

    let unlogged = patient(server.url()).durability(Durability::Unlogged).build().expect("a store");
    wrong(&unlogged, "not as durable as Unlogged says").await;
    unlogged.migrate().await.expect("a change");
    unlogged.ready().await.expect("a store that can be used");
    postgres.migrate().await.expect("a change back");

    sql(&server, "CREATE ROLE app LOGIN");
    let app = patient(server.url().replace("limiter@", "app@")).build().expect("a store");
    wrong(&app, "no permission").await;
    // Whatever the server's words quote.
    let named = |url: String| patient(url).table("limits 42P01").build().expect("a store");
    named(server.url()).migrate().await.expect("a schema");
    wrong(&named(server.url().replace("limiter@", "app@")), "no permission").await;
    sql(
        &server,
        "GRANT SELECT ON rate_limits_meta TO app; GRANT SELECT, INSERT, DELETE ON rate_limits TO app",
    );
    wrong(&app, "no permission").await;
    sql(
        &server,
        "GRANT UPDATE ON rate_limits TO app; GRANT SELECT, INSERT, UPDATE, DELETE ON rate_limits_log TO app; \
                  GRANT USAGE ON SEQUENCE rate_limits_log_ids TO app",
    );
    app.ready().await.expect("all that deciding needs");

    sql(&server, "ALTER ROLE limiter SET default_transaction_read_only = on");
    let reading = patient(server.url()).build().expect("a store");
    wrong(&reading, "read-only").await;
}

#[tokio::test]
async fn a_sweep_deletes_what_has_expired_and_waits_for_nobody() {
    let (server, _) = fresh().await;
    let postgres =
        patient(server.url()).grace(Duration::ZERO).virtual_expiry(Duration::ZERO).build().expect("a store");
    let many = |text: &str, prefix: &str| -> Vec<Request> {
        let one = |i| Request::one(check(text, &format!("{prefix}{i}"), 1)).expect("a request");
        (0..5_000).map(one).collect()
    };
    for batch in [many("9/ms", "short"), many("9/ms sliding-log", "log"), many("9/day", "long")] {
        for answer in postgres.decide(&batch).await {
            assert!(answer.expect("an answer").allowed());
        }
    }
    let count =
        || sql(&server, "SELECT (SELECT count(*) FROM rate_limits), (SELECT count(*) FROM rate_limits_log)");
    assert_eq!(count(), "15000|5000");
    tokio::time::sleep(Duration::from_millis(5)).await;
    // One row is in use; nobody waits for it.
    let holder = common::session(&server).await;
    let lock = "BEGIN; SELECT 1 FROM rate_limits WHERE expires < extract(epoch FROM now()) * 1000000 LIMIT 1 FOR UPDATE";
    holder.batch_execute(lock).await.expect("a lock");
    assert_eq!(postgres.sweep().await.expect("a sweep"), 14_999);
    assert_eq!(count(), "5001|0");
    holder.batch_execute("ROLLBACK").await.expect("a lock that goes");
    let sweeping = postgres.sweep_every(Duration::from_millis(50)).expect("a task");
    while count() != "5000|0" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(sweeping);
    // As a scheduler would.
    assert_eq!(sql(&server, "SELECT * FROM rate_limits_sweep(100000)"), "0|t");
    assert_eq!(taken(&postgres, "9/day", "long7").await, 1);
}

/// However short decisions are to be.
#[tokio::test]
async fn a_sweep_takes_the_time_it_needs() {
    let (server, _) = fresh().await;
    let filling = patient(server.url()).grace(Duration::ZERO).build().expect("a store");
    let keys = |i: u64| Request::one(check("9/ms", &i.to_string(), 1)).expect("a request");
    for answer in filling.decide(&(0..100).map(keys).collect::<Vec<_>>()).await {
        assert!(answer.expect("an answer").allowed());
    }
    sql(
        &server,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.005); RETURN OLD; END $$; \
                  CREATE TRIGGER slow BEFORE DELETE ON rate_limits FOR EACH ROW EXECUTE FUNCTION slow()",
    );
    let postgres = patient(server.url()).timeout(Duration::from_millis(50)).build().expect("a store");
    assert_eq!(postgres.sweep().await.expect("a sweep"), 100);
}

/// Rows go with the sweep; their space is new rows' once autovacuum has looked, every minute by default and here each
/// second. `LIMITER_TEST_LONG` makes it a flood of 10^6 keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_keys_does_not_make_the_table_grow_without_end() {
    let server = servers::Postgres::builder()
        .config("autovacuum_naptime", "1")
        .start()
        .unwrap_or_else(|error| panic!("{error}"));
    migrated(patient(server.url())).await;
    let postgres = patient(server.url())
        .grace(Duration::ZERO)
        .timeout(Duration::from_secs(20))
        .build()
        .expect("a store");
    let _sweeping = postgres.sweep_every(Duration::from_millis(100)).expect("a task");
    let floods = if std::env::var_os("LIMITER_TEST_LONG").is_some() { 200 } else { 20 };
    let rows = || sql(&server, "SELECT count(*) FROM rate_limits").parse::<u64>().expect("a number");
    let vacuums =
        || sql(&server, "SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'rate_limits'");
    for flood in 0..floods {
        for trip in 0..5 {
            let one =
                |i: u64| Request::one(check("9/ms", &format!("{flood} {trip} {i}"), 1)).expect("a request");
            for answer in postgres.decide(&(0..1_000).map(one).collect::<Vec<_>>()).await {
                assert!(answer.expect("an answer").allowed());
            }
        }
        // However slow the machine is: each flood finds at most the rows of one before it.
        let began = Instant::now();
        while rows() > 5_000 {
            assert!(began.elapsed() < Duration::from_secs(60), "flood {flood}: {} rows stay", rows());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // However fast it is: autovacuum has looked after every five.
        let looked = vacuums();
        while flood % 5 == 4 && vacuums() == looked {
            assert!(began.elapsed() < Duration::from_secs(60), "flood {flood}: no autovacuum");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let size: u64 = sql(&server, "SELECT pg_relation_size('rate_limits')").parse().expect("a number");
    println!("{floods} times 5,000 keys: {size} bytes");
    // 10^5 keys that nobody sweeps are 30 MB.
    assert!(size < 25_000_000, "{size} bytes");
}

#[tokio::test]
async fn peeks_and_denials_write_nothing() {
    let (server, postgres) = fresh().await;
    for text in ["2/day", "2/day fixed-window", "2/day sliding-log", "2/day sliding-counter"] {
        let one = |key: &str, cost| Request::one(check(text, key, cost)).expect("a request");
        let both = |key: &str| {
            Request::new([check(text, key, 1), check(text, "used", 1)]).expect("a request of two checks")
        };
        assert!(common::answer(&postgres, &one("used", 2)).await.expect("an answer").allowed());
        let state = "SELECT count(*), sum(hashtext(s::text)), sum(hashtext(xmin::text)) FROM rate_limits s";
        let before = sql(&server, state);
        for request in
            [one("new", 0), one("new", 3), one("used", 1), one("used", 0), one("used", 3), both("new")]
        {
            let _answer = common::answer(&postgres, &request).await.expect("an answer");
            assert_eq!(sql(&server, state), before, "{text}: {request:?}");
        }
    }
}
