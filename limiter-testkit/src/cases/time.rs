//! Which instant decides.

use crate::fixture::{Fixture, quota};
use limiter_core::{Algorithm, Request};
use std::time::Duration;

/// Time seen by a key never runs backwards: what is used up stays so at any instant up to a window earlier.
pub(super) async fn steps_back(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("10/s", algorithm);
    let later = 60_000_000;
    assert!(fixture.one("a", quota, 10, later).await.allowed);
    for back in (0..=20).map(|step| step * 50_000) {
        let decision = fixture.one("a", quota, 1, later - back).await;
        assert!(!decision.allowed, "admitted by a clock that stepped back {back} us");
    }
}

pub(super) async fn the_requests_instant_decides(fixture: Fixture) {
    let quota = quota("1/hour", Algorithm::TokenBucket);
    let hour = 3_600_000_000;
    assert!(fixture.one("a", quota, 1, 0).await.allowed);
    assert!(!fixture.one("a", quota, 1, hour - 1).await.allowed);
    assert!(fixture.one("a", quota, 1, hour).await.allowed);
    assert!(fixture.one("a", quota, 1, 1_000 * hour).await.allowed);
}

pub(super) async fn the_stores_clock(fixture: Fixture) {
    let quota = quota("1/hour", Algorithm::TokenBucket);
    let ask = |cost| Request::new([fixture.check("a", quota, cost)]).expect("a request");
    assert!(fixture.ask(&ask(1)).await.allowed());
    let first = fixture.ask(&ask(1)).await.decisions()[0];
    assert!(!first.allowed);
    let hour = Duration::from_secs(3_600);
    let mut reset_after = first.reset_after;
    assert!(
        reset_after <= hour && reset_after > hour - Duration::from_secs(60),
        "{reset_after:?} of an hour"
    );
    // The clock moves on, whatever it is.
    for _ in 0..1_000 {
        let next = fixture.ask(&ask(0)).await.decisions()[0].reset_after;
        assert!(next <= reset_after, "time ran backwards: {reset_after:?}, then {next:?}");
        reset_after = next;
    }
    assert!(reset_after < first.reset_after, "time stood still");
}
