//! Whatever the quota and the schedule: no panic, what is denied changes nothing, and every hint is exact.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use limiter_core::algorithm::{FixedWindow, LeakyBucket, SlidingCounter, SlidingLog, Step, TokenBucket};
use limiter_core::{Algorithm, Quota, Timestamp};
use std::time::Duration;

#[derive(Arbitrary, Debug)]
struct Run {
    algorithm: u8,
    quotas: Vec<(u64, u64, Option<u64>)>,
    steps: Vec<(u8, u64, u64)>,
}

fuzz_target!(|run: Run| {
    let algorithm = Algorithm::ALL[usize::from(run.algorithm) % 5];
    let quotas: Vec<Quota> = run
        .quotas
        .iter()
        .filter_map(|(limit, millis, burst)| {
            let quota = Quota::new(*limit, Duration::from_millis(*millis)).algorithm(algorithm);
            burst.map_or(quota, |burst| quota.burst(burst)).build().ok()
        })
        .collect();
    if quotas.is_empty() {
        return;
    }
    match algorithm {
        Algorithm::TokenBucket => check::<TokenBucket>(&quotas, &run.steps, 1),
        Algorithm::LeakyBucket => check::<LeakyBucket>(&quotas, &run.steps, 1),
        Algorithm::FixedWindow => check::<FixedWindow>(&quotas, &run.steps, 1),
        Algorithm::SlidingLog => check::<SlidingLog>(&quotas, &run.steps, 1),
        Algorithm::SlidingCounter => check::<SlidingCounter>(&quotas, &run.steps, 1_000),
    }
});

fn check<A: Step>(quotas: &[Quota], steps: &[(u8, u64, u64)], tick: u64) {
    let mut state = A::State::default();
    for (which, cost, now) in steps {
        let quota = &quotas[usize::from(*which) % quotas.len()];
        let now = now % Timestamp::MAX.as_micros();
        let at = |micros: u64| Timestamp::from_micros(micros).ok();
        let before = state.clone();
        let decision = A::step(&mut state, quota, *cost, at(now).unwrap());
        let then = |cost: u64, micros: u64| {
            at(micros).map(|at| A::step(&mut state.clone(), quota, cost, at).allowed)
        };
        assert!(decision.allowed || state == before);
        assert_eq!(then(decision.remaining, now), Some(true));
        assert_eq!(then(decision.remaining + 1, now), Some(false));
        if let Some(wait) = decision.retry_after.filter(|_| !decision.allowed) {
            let retry_at = now + u64::try_from(wait.as_micros()).unwrap();
            assert_ne!(then(*cost, retry_at), Some(false));
            let early = (retry_at - 1) / tick * tick;
            assert_ne!(then(*cost, early.max(now)), Some(true));
        }
    }
}
