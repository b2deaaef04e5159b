//! States end: what a store keeps for a key is gone some time after it is as if never used.

use crate::fixture::{Fixture, quota};
use limiter_core::{Algorithm, Decision, Quota, Request, Verdict};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Much shorter than the moment for which states are kept.
const POLL: Duration = Duration::from_millis(2);

/// Over soon: in virtual time, too, a state may be kept for as long as it is live by its own account.
const SHORT: &str = "3/50ms";

/// One check at the store's own time.
async fn now(fixture: &Fixture, key: &str, quota: Quota, cost: u64) -> Decision {
    let request = Request::new([fixture.check(key, quota, cost)]).expect("a request");
    fixture.ask(&request).await.decisions()[0]
}

async fn is_gone_in_time(fixture: &Fixture, algorithm: Algorithm, key: &str) {
    let started = Instant::now();
    while fixture.inside().holds(&fixture.key(algorithm, key)).await {
        assert!(started.elapsed() < PATIENCE, "the state of {key:?} is there after {PATIENCE:?}");
        sleep(POLL).await;
    }
}

/// Neither do they make a state, nor do they change one.
pub(super) async fn nothing_is_written(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("3/minute", algorithm);
    for cost in [0, 4, u64::MAX] {
        let _decision = fixture.one("new", quota, cost, 0).await;
        let is_there = fixture.inside().holds(&fixture.key(algorithm, "new")).await;
        assert!(!is_there, "a request of {cost} permits left a state");
    }
    assert!(fixture.one("used", quota, 3, 0).await.allowed);
    let key = fixture.key(algorithm, "used");
    let before = fixture.inside().read(&key).await;
    assert!(before.is_some(), "an admission left no state");
    for cost in [0, 1, 4] {
        let _decision = fixture.one("used", quota, cost, 1_000).await;
        assert_eq!(fixture.inside().read(&key).await, before, "a request of {cost} permits changed a state");
    }
    fixture.backend().reset(std::slice::from_ref(&key)).await.expect("a reset");
    assert!(!fixture.inside().holds(&key).await, "a reset left a state");
}

/// In virtual time, which stands still, the state stays live by its own account: only the store's expiry can free the
/// key. Peeks and denials do not put it off.
pub(super) async fn gone_after_its_time(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota(SHORT, algorithm);
    assert!(fixture.one("a", quota, 1, 0).await.allowed);
    assert!(fixture.one("a", quota, 2, 0).await.allowed);
    let started = Instant::now();
    while !fixture.one("a", quota, 1, 0).await.allowed {
        assert!(started.elapsed() < PATIENCE, "the key is used up after {PATIENCE:?}");
        let _peek = fixture.one("a", quota, 0, 0).await;
        sleep(POLL).await;
    }
    is_gone_in_time(&fixture, algorithm, "a").await;
}

/// At the store's own time, however the state came to be.
pub(super) async fn no_state_without_an_end(fixture: Fixture, algorithm: Algorithm) {
    let [short, long] = ["100/50ms", "100/200ms"].map(|text| quota(text, algorithm));
    for (key, quotas) in [
        ("once", &[short][..]),
        ("twice", &[short, short]),
        ("longer and longer", &[short, long]),
        ("shorter and shorter", &[long, short]),
    ] {
        for quota in quotas {
            assert!(now(&fixture, key, *quota, 1).await.allowed);
        }
    }
    let spoilt = fixture.key(algorithm, "spoilt");
    fixture.inside().write(&spoilt, b"garbage").await;
    assert!(now(&fixture, "spoilt", short, 1).await.allowed);
    for key in ["once", "twice", "longer and longer", "shorter and shorter", "spoilt"] {
        is_gone_in_time(&fixture, algorithm, key).await;
    }
}

/// The moment is what a state is kept beyond its time, not its time: another one that is over shows how long it is. The
/// state was written together with such as end before, which do.
pub(super) async fn a_live_state_is_kept(fixture: Fixture, algorithm: Algorithm) {
    let (long, short) = (quota("3/300days", algorithm), quota(SHORT, algorithm));
    let of = |key: &str, quota, cost| Request::new([fixture.check(key, quota, cost)]).expect("a request");
    for cost in [1, 2] {
        let batch = [of("before", short, 1), of("live", long, cost), of("after", short, 1)];
        assert!(fixture.verdicts(&batch).await.iter().all(Verdict::allowed));
    }
    let started = Instant::now();
    assert!(fixture.one("over", short, 1, 0).await.allowed);
    is_gone_in_time(&fixture, algorithm, "over").await;
    let moment = started.elapsed();
    for key in ["before", "after"] {
        is_gone_in_time(&fixture, algorithm, key).await;
    }
    while started.elapsed() < 2 * moment {
        assert!(!now(&fixture, "live", long, 1).await.allowed, "forgotten after {:?}", started.elapsed());
        sleep(POLL).await;
    }
}
