//! Spans and warnings.

use crate::fake::{Fake, Takes, ask, decided, error};
use crate::logged::Log;
use limiter_core::{Backend, ErrorKind, Observe, ObserveTrips, Origin};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_trip_is_a_span_of_a_client() {
    let log = Log::default();
    let _guard = log.listen();
    let layer = ObserveTrips::new(Fake::admitting(Takes::So(Duration::from_millis(1))));
    assert_eq!(layer.decide(&[ask("a"), ask("b")]).await.len(), 2);
    let span = r#"DEBUG span limiter_trip otel.kind="client" db.system.name="fake" db.operation.name="decide" db.operation.batch.size=2"#;
    assert_eq!(log.lines(), [span]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_trip_marks_its_span_and_warns_once() {
    let log = Log::default();
    let _guard = log.listen();
    let layer = ObserveTrips::new(Fake::failing(Takes::So(Duration::ZERO), ErrorKind::Timeout));
    let batch = [ask("a"), ask("b")];
    assert_eq!(layer.decide(&batch).await.len(), 2);
    let lines = log.take();
    assert_eq!(lines[1], r#"record limiter_trip error.type="timeout""#);
    let warning = r#"WARN limiter_core::layer::observe::notice message=a trip to the store failed store="fake" kind="timeout" suppressed=0 error=fake decide: told to (timeout; may have been recorded)"#;
    assert_eq!(lines[2..], [warning]);
    for _ in 0..5 {
        assert_eq!(layer.decide(&batch).await.len(), 2);
    }
    assert!(log.take().iter().all(|line| !line.starts_with("WARN")));
}

#[test]
fn each_kind_of_error_has_a_line_of_its_own() {
    let log = Log::default();
    let _guard = log.listen();
    let layer = Observe::new(Fake::new(Takes::Nothing, |request| {
        let kinds = [ErrorKind::Config, ErrorKind::Unavailable, ErrorKind::Timeout];
        let rule: usize = request.checks()[0].key.keyspace().rule().parse().unwrap();
        Err(error(kinds[rule]))
    }));
    for rule in ["0", "1", "2", "0", "1", "2"] {
        assert!(layer.decide_now(&ask(rule)).is_some());
    }
    let kinds = ["config", "unavailable", "timeout"];
    let lines = log.take();
    assert_eq!(lines.len(), kinds.len(), "{lines:#?}");
    for (line, kind) in lines.iter().zip(kinds) {
        assert!(line.starts_with("WARN") && line.contains(&format!("kind={kind:?}")), "{line}");
    }
}

#[test]
fn deciding_without_the_store_is_said() {
    let log = Log::default();
    let _guard = log.listen();
    let answer = |request: &_| Ok(decided(request, |_| true, Origin::Degraded));
    let layer = Observe::new(Fake::new(Takes::Nothing, answer));
    (0..3).for_each(|_| assert!(layer.decide_now(&ask("a")).is_some()));
    let lines = log.take();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("decided without the store"), "{}", lines[0]);
}
