//! Costs: none, some, too much.

use crate::fixture::{Fixture, quota};
use limiter_core::Algorithm;

pub(super) async fn peek(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("3/s", algorithm);
    for _ in 0..10 {
        let peek = fixture.one("a", quota, 0, 0).await;
        assert!(
            peek.allowed && peek.remaining == 3 && peek.reset_after.is_zero(),
            "of a fresh key: {peek:?}"
        );
    }
    assert!(fixture.one("a", quota, 3, 0).await.allowed);
    for _ in 0..10 {
        let peek = fixture.one("a", quota, 0, 0).await;
        assert!(peek.allowed && peek.remaining == 0, "of a used-up key: {peek:?}");
    }
}

pub(super) async fn oversize(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("3/s", algorithm);
    for cost in [4, 1 << 53, u64::MAX] {
        let denied = fixture.one("a", quota, cost, 0).await;
        assert!(!denied.allowed && denied.retry_after.is_none(), "{cost} of 3: {denied:?}");
    }
    assert_eq!(fixture.one("a", quota, 3, 0).await.remaining, 0);
}

pub(super) async fn smaller_after_denied(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("10/s", algorithm);
    assert!(fixture.one("a", quota, 7, 0).await.allowed);
    let denied = fixture.one("a", quota, 4, 0).await;
    assert_eq!((denied.allowed, denied.remaining), (false, 3));
    assert!(fixture.one("a", quota, 3, 0).await.allowed);
    assert_eq!(fixture.one("a", quota, 0, 0).await.remaining, 0);
}
