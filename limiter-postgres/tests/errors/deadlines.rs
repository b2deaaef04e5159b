//! Requests that nothing is sent for, and those that wait no longer.

use crate::TEN;
use crate::common::{answer, ask, fresh, is, patient, request, sql, taken};
use futures_util::FutureExt;
use limiter_core::{Backend, BackendError, Effect, ErrorKind, Request};
use limiter_postgres::Postgres;
use limiter_testkit::{Direction, Proxy};
use std::time::{Duration, Instant};

/// Who has more time goes without who had not.
#[tokio::test]
async fn a_short_deadline_fails_no_other_request_of_its_trip() {
    let (server, postgres) = fresh().await;
    let by = |millis| tokio::time::Instant::now() + Duration::from_millis(millis);
    let one = |key: &str, millis| request(TEN, key).with_deadline(by(millis));
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

#[tokio::test]
async fn a_timeout_without_end_has_one() {
    let (server, _postgres) = fresh().await;
    let patient = Postgres::builder(server.url()).timeout(Duration::MAX).connect_timeout(Duration::MAX);
    let _ = ask(&patient.build().expect("a store"), TEN, "a").await.expect("an answer");
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
    let asked = request(TEN, "a");
    now(answer(&postgres, &asked).now_or_never().and_then(Result::err));
    now(postgres.reset(&[asked.checks()[0].key.clone()]).now_or_never().and_then(Result::err));
    now(postgres.ready().now_or_never().and_then(Result::err));
    assert_eq!(runtime.block_on(taken(&postgres, TEN, "a")), 1);
}
