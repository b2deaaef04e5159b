//! ns per `step`, without a store and without a clock.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use criterion::{Criterion, criterion_group, criterion_main};
use limiter_core::algorithm::{FixedWindow, LeakyBucket, SlidingCounter, SlidingLog, Step, TokenBucket};
use limiter_core::{Algorithm, Quota, QuotaBuilder, Timestamp};
use std::hint::black_box;

/// Any instant of this century would do.
const START: u64 = 1_795_465_002_435_613;

/// A rate of which a permit is a whole number of microseconds, and one of which none is.
const RATES: [(&str, QuotaBuilder); 2] =
    [("10 per second", Quota::per_second(10)), ("7 per second", Quota::per_second(7))];

fn step(c: &mut Criterion) {
    for (rate, quota) in RATES {
        both::<TokenBucket>(c, rate, quota.algorithm(Algorithm::TokenBucket));
        both::<LeakyBucket>(c, rate, quota.algorithm(Algorithm::LeakyBucket));
        both::<FixedWindow>(c, rate, quota.algorithm(Algorithm::FixedWindow));
        both::<SlidingCounter>(c, rate, quota.algorithm(Algorithm::SlidingCounter));
    }
    for (rate, limit) in [("100 per second", 100), ("100,000 per second", 100_000)] {
        both::<SlidingLog>(c, rate, Quota::per_second(limit).algorithm(Algorithm::SlidingLog));
    }
}

fn both<A: Step>(c: &mut Criterion, rate: &str, quota: QuotaBuilder) {
    let quota = quota.build().expect("a quota that can be enforced");
    let name = |verdict| format!("step/{}/{rate}/{verdict}", quota.algorithm());
    admitted::<A>(c, &name("admitted"), &quota);
    denied::<A>(c, &name("denied"), &quota);
}

/// At a constant rate that is just admitted: as much leaves the state as comes in.
fn admitted<A: Step>(c: &mut Criterion, name: &str, quota: &Quota) {
    let window = quota.window().as_micros().try_into().unwrap_or(u64::MAX);
    let spacing = match quota.algorithm() {
        // It sees a burst at the end of the last window in an even flow of more than half its rate.
        Algorithm::SlidingCounter => 2 * window / quota.limit(),
        _ => window.div_ceil(quota.limit()),
    };
    let mut state = A::State::default();
    let mut now = START;
    let mut next = || {
        now += spacing;
        A::step(black_box(&mut state), black_box(quota), black_box(1), instant(now))
    };
    assert!((0..2 * quota.limit()).all(|_| next().allowed), "{name}");
    c.bench_function(name, |b| b.iter(&mut next));
}

/// Used up, and asked again at the same instant.
fn denied<A: Step>(c: &mut Criterion, name: &str, quota: &Quota) {
    let mut state = A::State::default();
    // Each at an instant of its own, so that a log is as long as it gets.
    for i in 0..quota.limit() {
        assert!(A::step(&mut state, quota, 1, instant(START + i)).allowed, "{name}");
    }
    let now = instant(START + quota.limit());
    let mut next = || A::step(black_box(&mut state), black_box(quota), black_box(1), black_box(now));
    assert!(!next().allowed, "{name}");
    c.bench_function(name, |b| b.iter(&mut next));
}

fn instant(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros).unwrap_or(Timestamp::MAX)
}

criterion_group!(benches, step);
criterion_main!(benches);
