//! Resetting forgets a key, and no other.

use crate::fixture::{Fixture, quota};
use limiter_core::Algorithm;

pub(super) async fn a_reset_key_is_fresh(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("3/s", algorithm);
    let fresh = fixture.one("new", quota, 0, 0).await;
    assert!(fixture.one("a", quota, 3, 0).await.allowed);
    for _ in 0..2 {
        let reset = fixture.backend().reset(&[fixture.key(algorithm, "a")]).await;
        reset.expect("a reset, which is safe to repeat");
        assert_eq!(fixture.one("a", quota, 0, 0).await, fresh);
    }
    assert!(fixture.one("a", quota, 3, 0).await.allowed);
}

pub(super) async fn only_that_key(fixture: Fixture) {
    let quota = quota("3/s", Algorithm::TokenBucket);
    for key in ["a", "b", "c"] {
        assert!(fixture.one(key, quota, 3, 0).await.allowed);
    }
    let keys = ["a", "c"].map(|key| fixture.key(Algorithm::TokenBucket, key));
    fixture.backend().reset(&keys).await.expect("a reset of two keys");
    fixture.backend().reset(&[]).await.expect("a reset of nothing");
    let mut remaining = Vec::new();
    for key in ["a", "b", "c"] {
        remaining.push(fixture.one(key, quota, 0, 0).await.remaining);
    }
    assert_eq!(remaining, [3, 0, 3]);
}
