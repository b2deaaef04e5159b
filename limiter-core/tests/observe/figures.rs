//! What is sampled from the layers below.

use crate::fake::{Fake, Takes, ask};
use crate::now_or_never::now_or_never;
use crate::recorded::Value::{Counter, Gauge};
use crate::recorded::{Recorder, Values, values};
use limiter_core::{
    Backend, Breaker, BreakerConfig, Coalesce, CoalesceConfig, Degrade, DegradeConfig, DenyCache,
    DenyCacheConfig, ErrorKind, Figure, Memory, Metric, Observe, ObserveTrips, RateLimiter, Rule, Timestamp,
    metric,
};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn layer(figures: &[Figure]) -> Observe<Arc<Fake>> {
    let fake = Fake::admitting(Takes::Nothing);
    fake.figures.lock().unwrap().extend(figures);
    Observe::new(Arc::new(fake))
}

fn figure(metric: &'static Metric, value: u64) -> Figure {
    Figure::new(metric, "fake", value)
}

/// What has changed of what is sampled.
fn sampled(recorder: &Recorder) -> Values {
    let mut changes = recorder.changes();
    changes.retain(|series, _| !series.starts_with("limiter_decision"));
    changes
}

#[test]
fn a_decision_samples_and_then_no_other_for_a_second() {
    let recorder = Recorder::new();
    let fake = Arc::new(Fake::admitting(Takes::Nothing));
    fake.figures.lock().unwrap().push(figure(&metric::MEMORY_KEYS, 7));
    let layer = Observe::new(Arc::clone(&fake));
    let start = Instant::now();
    assert!(layer.decide_now(&ask("user")).is_some());
    assert_eq!(sampled(&recorder), values([(r#"limiter_memory_keys{store="fake"}"#, Gauge(7.0))]));
    (0..10_000).for_each(|_| assert!(layer.decide_now(&ask("user")).is_some()));
    let samples = fake.reports.load(Ordering::Relaxed);
    assert!((1..=2 + start.elapsed().as_secs()).contains(&samples), "{samples}");
}

#[test]
fn asking_samples_at_once_and_tells_the_figures() {
    let recorder = Recorder::new();
    let layer = layer(&[
        figure(&metric::QUEUED_REQUESTS, 3),
        figure(&metric::CORRUPT_STATES, 5),
        figure(&metric::BREAKERS, 1).in_state("open"),
        figure(&metric::BREAKERS, 2).in_state("closed"),
    ]);
    let mut told = Vec::new();
    layer.report(&mut |figure| told.push((figure.metric().name(), figure.label(), figure.value())));
    let expected = [
        ("limiter_queued_requests", None, 3),
        ("limiter_corrupt_states_total", None, 5),
        ("limiter_breakers", Some("open"), 1),
        ("limiter_breakers", Some("closed"), 2),
    ];
    assert_eq!(told, expected);
    let expected = [
        (r#"limiter_queued_requests{store="fake"}"#, Gauge(3.0)),
        (r#"limiter_corrupt_states_total{store="fake"}"#, Counter(5)),
        (r#"limiter_breakers{store="fake",state="open"}"#, Gauge(1.0)),
        (r#"limiter_breakers{store="fake",state="closed"}"#, Gauge(2.0)),
    ];
    assert_eq!(sampled(&recorder), values(expected));
}

#[test]
fn figures_of_one_series_add_up_also_over_limiters() {
    let recorder = Recorder::new();
    let keys = |value| figure(&metric::MEMORY_KEYS, value);
    let evictions = |value| figure(&metric::MEMORY_EVICTIONS, value);
    let layers = [[keys(2), keys(5), evictions(1)], [keys(10), keys(0), evictions(4)]].map(|all| layer(&all));
    layers.iter().for_each(|layer| layer.report(&mut |_| {}));
    let expected = [
        (r#"limiter_memory_keys{store="fake"}"#, Gauge(17.0)),
        (r#"limiter_memory_evictions_total{store="fake"}"#, Counter(5)),
    ];
    assert_eq!(sampled(&recorder), values(expected));
    // A limiter that is gone holds nothing; what it did stays done.
    let [first, second] = layers;
    drop(first);
    assert_eq!(sampled(&recorder), values([(r#"limiter_memory_keys{store="fake"}"#, Gauge(-7.0))]));
    second.report(&mut |_| {});
    assert_eq!(sampled(&recorder), values([]));
}

#[test]
fn what_went_down_is_told_of_gauges_only() {
    let recorder = Recorder::new();
    let fake = Arc::new(Fake::admitting(Takes::Nothing));
    let layer = Observe::new(Arc::clone(&fake));
    let tell = |queued, corrupt| {
        *fake.figures.lock().unwrap() =
            vec![figure(&metric::QUEUED_REQUESTS, queued), figure(&metric::CORRUPT_STATES, corrupt)];
        layer.report(&mut |_| {});
        sampled(&recorder)
    };
    assert_eq!(tell(9, 4).len(), 2);
    assert_eq!(tell(2, 3), values([(r#"limiter_queued_requests{store="fake"}"#, Gauge(-7.0))]));
    assert_eq!(tell(2, 5), values([(r#"limiter_corrupt_states_total{store="fake"}"#, Counter(1))]));
}

#[test]
fn times_are_microseconds_and_exported_as_seconds() {
    let recorder = Recorder::new();
    let fake = Arc::new(Fake::admitting(Takes::Nothing));
    let layer = Observe::new(Arc::clone(&fake));
    let tell = |micros| {
        *fake.figures.lock().unwrap() =
            vec![figure(&metric::CLOCK_SKEW, micros), figure(&metric::DEGRADED_SECONDS, micros)];
        layer.report(&mut |_| {});
        sampled(&recorder)
    };
    let skew = r#"limiter_clock_skew_seconds{store="fake"}"#;
    let degraded = r#"limiter_degraded_seconds_total{store="fake"}"#;
    assert_eq!(tell(1_500_000), values([(skew, Gauge(1.5)), (degraded, Counter(1))]));
    assert_eq!(tell(1_750_000), values([(skew, Gauge(1.75))]));
    assert_eq!(tell(2_000_000).get(degraded), Some(&Counter(1)));
}

#[test]
fn memory_reports_what_it_holds_and_what_found_no_room() {
    let recorder = Recorder::new();
    let memory = Memory::builder().max_keys(NonZeroUsize::new(10).unwrap()).build();
    let limiter = RateLimiter::new(1, Duration::from_secs(3_600), memory).unwrap();
    for key in 0..12_u32 {
        assert!(limiter.check_now(&key.to_le_bytes()).is_some());
    }
    let figures: Vec<_> =
        limiter.report().iter().map(|figure| (figure.metric().name(), figure.value())).collect();
    let value = |name| figures.iter().find(|(n, _)| *n == name).unwrap().1;
    assert_eq!((value("limiter_memory_keys"), value("limiter_memory_evictions_total")), (10, 0));
    let shared = value("limiter_memory_shared_states");
    assert!((1..=2).contains(&shared));
    assert_eq!(value("limiter_memory_shared_admissions_total"), shared);
    let exported = recorder.take();
    assert_eq!(exported[r#"limiter_memory_keys{store="memory"}"#], Gauge(10.0));
}

#[test]
fn memory_counts_what_it_drops() {
    let memory = Memory::builder()
        .max_keys(NonZeroUsize::new(64).unwrap())
        .grace(Duration::ZERO)
        .virtual_expiry(Duration::ZERO)
        .build();
    let now = Arc::new(AtomicU64::new(1_000_000));
    let clock = Arc::clone(&now);
    let builder = RateLimiter::builder(memory.clone()).rule(Rule::new("user", "1/s"));
    let builder =
        builder.clock(move || Timestamp::from_micros(clock.load(Ordering::Relaxed)).unwrap_or_default());
    let limiter = builder.build().unwrap();
    for key in 0..64_u32 {
        assert!(now_or_never(limiter.check(&key.to_le_bytes())).unwrap().is_ok());
    }
    assert_eq!((memory.usage().keys, memory.usage().evictions), (64, 0));
    // All of them are as if never used a window later.
    now.fetch_add(1_000_000, Ordering::Relaxed);
    assert!(now_or_never(limiter.check("one more")).unwrap().is_ok());
    assert_eq!((memory.usage().keys, memory.usage().evictions), (1, 64));
}

#[tokio::test(start_paused = true)]
async fn a_queue_reports_what_waits_and_what_is_on_its_way() {
    let recorder = Recorder::new();
    let config = CoalesceConfig::new().eager(0).slots(NonZeroUsize::MIN);
    let store = ObserveTrips::new(Fake::admitting(Takes::Forever));
    let layer = Observe::new(Coalesce::new(store, config));
    let batches = [vec![ask("a")], vec![ask("b"), ask("c")]];
    let mut waiting: Vec<_> = batches.iter().map(|batch| layer.decide(batch)).collect();
    for call in &mut waiting {
        assert!(now_or_never(call.as_mut()).is_none());
    }
    layer.report(&mut |_| {});
    let expected = [
        (r#"limiter_queued_requests{store="fake"}"#, Gauge(2.0)),
        (r#"limiter_in_flight_requests{store="fake"}"#, Gauge(1.0)),
    ];
    assert_eq!(sampled(&recorder), values(expected));
}

#[tokio::test(start_paused = true)]
async fn a_breaker_reports_its_parts_by_state() {
    let recorder = Recorder::new();
    let store = Fake::failing(Takes::So(Duration::ZERO), ErrorKind::Unavailable);
    let config = BreakerConfig::new().failures_in_a_row(NonZeroU32::new(2).unwrap());
    let layer = Observe::new(Breaker::new(store, config));
    let breakers = |state| format!("limiter_breakers{{store=\"fake\",state={state:?}}}");
    assert!(layer.decide(&[ask("user")]).await[0].is_err());
    layer.report(&mut |_| {});
    assert_eq!(recorder.take()[&breakers("closed")], Gauge(1.0));
    assert!(layer.decide(&[ask("user")]).await[0].is_err());
    layer.report(&mut |_| {});
    let taken = recorder.take();
    let states = ["closed", "open", "recovering"].map(|state| taken[&breakers(state)].clone());
    assert_eq!(states, [Gauge(-1.0), Gauge(1.0), Gauge(0.0)]);
    assert_eq!(taken[r#"limiter_breaker_openings_total{store="fake"}"#], Counter(1));
}

#[tokio::test(start_paused = true)]
async fn remembered_denials_and_the_degraded_mode_are_reported() {
    let recorder = Recorder::new();
    let answered = |kind| format!("limiter_degraded_errors_total{{store=\"fake\",kind={kind:?}}}");
    let store = Fake::failing(Takes::So(Duration::ZERO), ErrorKind::Unavailable);
    let degraded = Degrade::new(store, DegradeConfig::new());
    let layer = Observe::new(DenyCache::new(degraded, DenyCacheConfig::new()));
    for expected in [None, Some(&Gauge(1.0))] {
        layer.report(&mut |_| {});
        let changes = recorder.changes();
        assert_eq!(changes.get(r#"limiter_degraded{store="fake"}"#), expected, "{changes:?}");
        assert!(layer.decide(&[ask("user")]).await[0].is_ok());
    }
    layer.report(&mut |_| {});
    let taken = recorder.take();
    assert_eq!(taken[&answered("unavailable")], Counter(1), "another since");
    assert_eq!(taken[&answered("timeout")], Counter(0), "there before it is needed");
    let names: Vec<_> = told(&layer);
    let memory = ["keys", "shared_states", "log_entries"].map(|name| format!("limiter_memory_{name}"));
    for name in memory
        .iter()
        .map(String::as_str)
        .chain(["limiter_remembered_denials", "limiter_degraded_seconds_total"])
    {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
}

fn told(backend: &impl Backend) -> Vec<&'static str> {
    let mut names = Vec::new();
    backend.report(&mut |figure| names.push(figure.metric().name()));
    names
}
