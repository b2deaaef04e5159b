//! Requests of several checks: granted whole, or nothing is taken.

use crate::fixture::{Fixture, quota, request};
use limiter_core::{Algorithm, Check};

/// Two to five checks of different algorithms; each in turn is the one that denies.
pub(super) async fn takes_from_no_key(fixture: Fixture) {
    for checks in 2..=5 {
        for denying in 0..checks {
            let check = |i: usize, cost: u64| {
                let limit = if i == denying { "2/s" } else { "9/s" };
                fixture.check(format!("{checks} {denying} {i}"), quota(limit, Algorithm::ALL[i]), cost)
            };
            let all = |cost| request((0..checks).map(|i| check(i, cost)).collect::<Vec<Check>>(), 0);
            assert!(fixture.ask(&all(2)).await.allowed());
            let denied = fixture.ask(&all(1)).await;
            let allowed: Vec<bool> = denied.decisions().iter().map(|decision| decision.allowed).collect();
            assert_eq!(allowed, (0..checks).map(|i| i != denying).collect::<Vec<_>>());
            for i in (0..checks).filter(|i| *i != denying) {
                let left = fixture.ask(&request([check(i, 0)], 0)).await.decisions()[0].remaining;
                assert_eq!(
                    left, 7,
                    "check {i} of {checks} lost permits to a request that check {denying} denied"
                );
            }
        }
    }
}

pub(super) async fn all_are_evaluated(fixture: Fixture) {
    let check = |key: &str, text: &str, cost| fixture.check(key, quota(text, Algorithm::TokenBucket), cost);
    let asked = [check("a", "1/s", 1), check("b", "1/10s", 1), check("c", "5/s", 2), check("d", "1/s", 2)];
    let first = fixture.ask(&request(asked[..3].iter().cloned(), 0)).await;
    assert!(first.allowed());
    let verdict = fixture.ask(&request(asked, 0)).await;
    let waits: Vec<_> =
        verdict.decisions().iter().map(|d| d.retry_after.map(|wait| wait.as_secs())).collect();
    assert_eq!(waits, [Some(1), Some(10), Some(0), None]);
    assert_eq!(verdict.decisions()[2].remaining, 3, "a check that is spared reports its state");
}
