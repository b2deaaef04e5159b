//! Rows that others hold, and statements that are ended.

use crate::common::{answer, ask, check, fresh, is, patient, request, session, sql, taken};
use crate::{TEN, holds, refused_while_it_waits, took_only};
use limiter_core::{Backend, Effect, ErrorKind, Request};
use std::time::{Duration, Instant};

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
        let batch: Vec<Request> =
            names.iter().cloned().chain(free).map(|name| request(TEN, &name).with_deadline(until)).collect();
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
            // So long that they are seen to wait, by a program of its own, on a busy machine too.
            let postgres = patient(server.url()).timeout(Duration::from_secs(6)).build().expect("a store");
            let until = by(10_000);
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
    let (_server, error) = refused_while_it_waits(server, &postgres, "pg_cancel_backend").await;
    is(&error, ErrorKind::Timeout, Effect::NotApplied, "57014");
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
    let request = request(TEN, "a").with_deadline(until);
    let error = answer(&postgres, &request).await.expect_err("no answer");
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
    let batch = ["a", "b"].map(|key| request(TEN, key));
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
