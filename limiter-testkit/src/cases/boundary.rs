//! The promised instants, and a tick before them.

use crate::fixture::{Fixture, quota};
use limiter_core::{Algorithm, Decision};

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The grain in which an algorithm counts time: instants of it are whole multiples since the epoch.
fn tick_before(fixture_instant: u64, algorithm: Algorithm) -> u64 {
    let tick = if algorithm == Algorithm::SlidingCounter { 1_000 } else { 1 };
    fixture_instant - tick
}

pub(super) async fn allowed_when_promised(fixture: Fixture, algorithm: Algorithm) {
    for (round, (text, costs)) in
        [("3/s", [1, 1, 1, 1]), ("7/13s", [3, 2, 2, 2]), ("100/minute", [60, 20, 20, 30])]
            .into_iter()
            .enumerate()
    {
        let quota = quota(text, algorithm);
        let mut denied: Option<(u64, Decision)> = None;
        for (i, cost) in costs.into_iter().enumerate() {
            let decision = fixture.one(&format!("early {round}"), quota, cost, i as u64 * 1_000).await;
            assert_eq!(fixture.one(&format!("late {round}"), quota, cost, i as u64 * 1_000).await, decision);
            denied = (!decision.allowed).then_some((i as u64 * 1_000, decision));
        }
        let (now, decision) = denied.expect("the last request is above the limit");
        let wait = decision.retry_after.expect("its cost is below the limit");
        let then = now + micros(wait);
        let early =
            fixture.one(&format!("early {round}"), quota, costs[3], tick_before(then, algorithm)).await;
        assert!(!early.allowed, "{quota}: allowed a tick before it was promised");
        let late = fixture.one(&format!("late {round}"), quota, costs[3], then).await;
        assert!(late.allowed, "{quota}: denied when it was promised");
    }
}

pub(super) async fn fresh_when_promised(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("7/13s", algorithm);
    for key in ["early", "late"] {
        assert!(fixture.one(key, quota, 4, 0).await.allowed);
    }
    let used = fixture.one("late", quota, 0, 0).await;
    let reset = micros(used.reset_after);
    assert_ne!(
        fixture.one("early", quota, 0, reset - 1).await,
        fixture.one("new", quota, 0, reset - 1).await
    );
    assert_eq!(fixture.one("late", quota, 7, reset).await, fixture.one("new too", quota, 7, reset).await);
}
