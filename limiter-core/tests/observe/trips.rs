//! Trips to the store.

use crate::fake::{Fake, Takes, ask, check, decided, error};
use crate::recorded::Value::{Counter, Histogram};
use crate::recorded::{Recorder, values};
use limiter_core::{Backend, ErrorKind, ObserveTrips, Origin, QuotaError, Shard};
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test(start_paused = true)]
async fn a_trip_is_its_time_and_its_size() {
    let recorder = Recorder::new();
    let layer = ObserveTrips::new(Fake::admitting(Takes::So(Duration::from_millis(3))));
    assert_eq!(layer.decide(&[ask("a"), ask("b"), ask("c")]).await.len(), 3);
    let expected = [
        (r#"limiter_trip_seconds{store="fake",operation="decide"}"#, Histogram(vec![0.003])),
        (r#"limiter_trip_requests{store="fake"}"#, Histogram(vec![3.0])),
    ];
    assert_eq!(recorder.changes(), values(expected));
}

#[tokio::test(start_paused = true)]
async fn a_failed_trip_is_one_failure_of_each_kind() {
    let recorder = Recorder::new();
    let layer = ObserveTrips::new(Fake::new(Takes::So(Duration::ZERO), |request| {
        match request.checks()[0].key.keyspace().rule() {
            "late" => Err(error(ErrorKind::Timeout)),
            "lost" => Err(error(ErrorKind::Unavailable)),
            _ => Ok(decided(request, |_| true, Origin::Store)),
        }
    }));
    let batch = ["late", "fine", "lost", "late", "late"].map(ask);
    assert_eq!(layer.decide(&batch).await.iter().filter(|answer| answer.is_err()).count(), 4);
    let mut changes = recorder.changes();
    changes.retain(|series, _| series.contains("errors"));
    let expected = [
        (r#"limiter_trip_errors_total{store="fake",kind="timeout"}"#, Counter(1)),
        (r#"limiter_trip_errors_total{store="fake",kind="unavailable"}"#, Counter(1)),
    ];
    assert_eq!(changes, values(expected));
}

#[tokio::test(start_paused = true)]
async fn a_trip_that_is_given_up_counts_with_the_time_that_it_took() {
    let recorder = Recorder::new();
    let layer = ObserveTrips::new(Fake::admitting(Takes::Forever));
    assert!(timeout(Duration::from_millis(50), layer.decide(&[ask("a")])).await.is_err());
    let expected = [
        (r#"limiter_trip_seconds{store="fake",operation="decide"}"#, Histogram(vec![0.05])),
        (r#"limiter_trip_requests{store="fake"}"#, Histogram(vec![1.0])),
        (r#"limiter_trip_errors_total{store="fake",kind="dropped"}"#, Counter(1)),
    ];
    assert_eq!(recorder.changes(), values(expected));
}

#[tokio::test(start_paused = true)]
async fn resets_and_probes_are_trips_and_carry_no_requests() {
    let recorder = Recorder::new();
    let layer = ObserveTrips::new(Fake::admitting(Takes::Nothing));
    assert!(layer.reset(&[check("a", 1).key]).await.is_err());
    assert!(layer.ready().await.is_err());
    let expected = [
        (r#"limiter_trip_seconds{store="fake",operation="reset"}"#, Histogram(vec![0.0])),
        (r#"limiter_trip_seconds{store="fake",operation="ready"}"#, Histogram(vec![0.0])),
        (r#"limiter_trip_errors_total{store="fake",kind="contention"}"#, Counter(1)),
        (r#"limiter_trip_errors_total{store="fake",kind="config"}"#, Counter(1)),
    ];
    assert_eq!(recorder.changes(), values(expected));
}

#[test]
fn an_answer_without_a_wait_is_no_trip() {
    let recorder = Recorder::new();
    let layer = ObserveTrips::new(Fake::admitting(Takes::Nothing));
    assert!(layer.decide_now(&ask("a")).is_some());
    assert_eq!(recorder.take(), values([]));
    assert_eq!((layer.name(), layer.shard(&ask("a"))), ("fake", Shard::One(7)));
    assert_eq!(layer.accepts(&check("a", 1).quota), Err(QuotaError::ZeroLimit));
}
