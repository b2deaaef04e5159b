//! Decisions, errors and waits.

use crate::fake::{Fake, Takes, ask, check, decided};
use crate::recorded::Value::{Counter, Histogram};
use crate::recorded::{Recorder, values};
use limiter_core::{
    Backend, ErrorKind, Memory, Observe, Origin, QuotaError, RateLimiter, Request, Rule, Shard,
};
use std::time::Duration;
use tokio::time::timeout;

#[test]
fn a_decision_counts_by_rule_store_origin_and_outcome() {
    let recorder = Recorder::new();
    for (origin, label) in
        [(Origin::Store, "store"), (Origin::RememberedDenial, "remembered"), (Origin::Degraded, "degraded")]
    {
        let store = move |request: &Request| Ok(decided(request, |rule| rule == "open", origin));
        let layer = Observe::new(Fake::new(Takes::Nothing, store));
        for (rule, outcome, times) in [("open", "allowed", 3), ("closed", "denied", 2)] {
            (0..times).for_each(|_| assert!(layer.decide_now(&ask(rule)).is_some()));
            let series = format!(
                "limiter_decisions_total{{rule=\"{rule}\",store=\"fake\",origin=\"{label}\",outcome=\"{outcome}\"}}"
            );
            assert_eq!(recorder.changes(), values([(&*series, Counter(times))]));
        }
    }
}

#[test]
fn a_rule_that_admits_what_another_denies_has_withheld_it() {
    let recorder = Recorder::new();
    let layer = Observe::new(Fake::new(Takes::Nothing, |request| {
        Ok(decided(request, |rule| rule == "open", Origin::Store))
    }));
    let request = Request::new([check("open", 1), check("closed", 1), check("peeked", 0)]).unwrap();
    assert!(layer.decide_now(&request).is_some());
    let expected = [
        (
            r#"limiter_decisions_total{rule="closed",store="fake",origin="store",outcome="denied"}"#,
            Counter(1),
        ),
        (
            r#"limiter_decisions_total{rule="open",store="fake",origin="store",outcome="withheld"}"#,
            Counter(1),
        ),
    ];
    assert_eq!(recorder.changes(), values(expected));
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_recorded_in_whole_and_an_answer_without_one_is_not() {
    let recorder = Recorder::new();
    let layer = Observe::new(Fake::admitting(Takes::So(Duration::from_millis(250))));
    assert!(layer.decide_now(&ask("user")).is_none());
    assert_eq!(layer.decide(&[ask("user"), ask("user")]).await.len(), 2);
    let expected = [
        (r#"limiter_decisions_total{rule="user",store="fake",origin="store",outcome="allowed"}"#, Counter(2)),
        (r#"limiter_decision_seconds{store="fake"}"#, Histogram(vec![0.25, 0.25])),
    ];
    assert_eq!(recorder.changes(), values(expected));
}

#[tokio::test(start_paused = true)]
async fn an_error_counts_by_kind_under_each_rule() {
    let recorder = Recorder::new();
    let kinds = [
        ErrorKind::Config,
        ErrorKind::Unavailable,
        ErrorKind::Timeout,
        ErrorKind::Overloaded,
        ErrorKind::Contention,
        ErrorKind::Corrupt,
        ErrorKind::Unexpected,
    ];
    for kind in kinds {
        let layer = Observe::new(Fake::failing(Takes::So(Duration::ZERO), kind));
        let request = Request::new([check("a", 1), check("b", 1)]).unwrap();
        assert!(layer.decide(&[request, ask("a")]).await.iter().all(Result::is_err));
        let series = |rule| format!("limiter_errors_total{{rule=\"{rule}\",store=\"fake\",kind=\"{kind}\"}}");
        let mut changes = recorder.changes();
        changes.retain(|series, _| series.contains("errors"));
        assert_eq!(changes, values([(&*series("a"), Counter(2)), (&*series("b"), Counter(1))]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_counts_with_the_time_that_it_waited() {
    let recorder = Recorder::new();
    let layer = Observe::new(Fake::admitting(Takes::Forever));
    let left = timeout(Duration::from_millis(50), layer.decide(&[ask("user")])).await;
    assert!(left.is_err());
    let expected = [
        (r#"limiter_errors_total{rule="user",store="fake",kind="dropped"}"#, Counter(1)),
        (r#"limiter_decision_seconds{store="fake"}"#, Histogram(vec![0.05])),
    ];
    assert_eq!(recorder.changes(), values(expected));
}

#[test]
fn all_series_of_a_rule_are_there_before_they_are_needed() {
    let recorder = Recorder::new();
    let layer = Observe::new(Fake::admitting(Takes::Nothing));
    assert!(layer.decide_now(&ask("user")).is_some());
    let series = recorder.take();
    let count = |name: &str| series.keys().filter(|series| series.starts_with(name)).count();
    assert_eq!([count("limiter_decisions_total"), count("limiter_errors_total")], [9, 8]);
}

#[test]
fn a_million_keys_make_no_series() {
    let recorder = Recorder::new();
    let builder = RateLimiter::builder(Memory::new()).namespace("flood");
    let limiter = builder.rule(Rule::new("user", "1/minute")).build().unwrap();
    assert!(limiter.check_now("first").is_some());
    let before: Vec<String> = recorder.take().into_keys().collect();
    for i in 0..1_000_000_u32 {
        assert!(limiter.check_now(&i.to_le_bytes()).is_some());
    }
    let after = recorder.take();
    assert_eq!(after.keys().cloned().collect::<Vec<_>>(), before);
    let decided = |outcome| {
        let series = format!(
            "limiter_decisions_total{{rule=\"user\",store=\"memory\",origin=\"store\",outcome={outcome:?}}}"
        );
        match after[&series] {
            Counter(total) => total,
            _ => 0,
        }
    };
    // A few meet an overflow state.
    assert_eq!(decided("allowed") + decided("denied"), 1_000_000);
}

#[test]
fn many_rules_have_counters_of_their_own() {
    let recorder = Recorder::new();
    let layer = Observe::new(Fake::admitting(Takes::Nothing));
    let rules: Vec<String> = (0..1_000).map(|i| format!("rule {i}")).collect();
    for (i, rule) in rules.iter().enumerate() {
        (0..=i % 7).for_each(|_| assert!(layer.decide_now(&ask(rule)).is_some()));
    }
    let changes = recorder.changes();
    assert_eq!(changes.len(), rules.len());
    for (i, rule) in rules.iter().enumerate() {
        let series = format!(
            "limiter_decisions_total{{rule={rule:?},store=\"fake\",origin=\"store\",outcome=\"allowed\"}}"
        );
        assert_eq!(changes[&series], Counter(i as u64 % 7 + 1), "{rule}");
    }
}

#[tokio::test]
async fn all_else_is_the_inner_backend_s() {
    let layer = Observe::new(Fake::admitting(Takes::Nothing));
    assert_eq!((layer.name(), layer.shard(&ask("user"))), ("fake", Shard::One(7)));
    assert_eq!(layer.accepts(&check("user", 1).quota), Err(QuotaError::ZeroLimit));
    assert_eq!(layer.reset(&[]).await.unwrap_err().kind(), ErrorKind::Contention);
    assert_eq!(layer.ready().await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(layer.decide(&[]).await.len(), 0);
}
