//! A store of several parts, of which one is dead.

use super::{OPEN, layer};
use crate::remote::{Mode, Remote};
use crate::{ask, check, decide, error_of, ms, quota};
use limiter_core::{Backend, BreakerState, ErrorKind, Request};
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn a_dead_part_costs_only_what_needs_it() {
    let remote = Remote::new();
    remote.part_becomes(1, Mode::Hung);
    let layer = layer(&remote, 1);
    for _ in 0..10 {
        assert!(decide(&*layer, &ask("1")).await.is_err());
    }
    let over = |parts: &[&str]| Request::new(parts.iter().map(|key| check(key, quota("1000/s"), 1))).unwrap();
    assert!(layer.decide_now(&ask("1")).is_some());
    assert!(layer.decide_now(&over(&["2", "1"])).is_some());
    assert!(layer.decide_now(&over(&["2", "3"])).is_none());
    assert!(decide(&*layer, &ask("2")).await.is_ok());
    assert!(decide(&*layer, &over(&["2", "3"])).await.is_ok());
    let batch = [ask("2"), ask("1"), over(&["1", "3"]), ask("3")];
    let refused: Vec<_> = layer.decide(&batch).await.iter().map(error_of).collect();
    assert_eq!(refused, [None, OPEN, OPEN, None]);
}

/// What a part was probed with may turn out to be in another, which is still dead.
#[tokio::test(start_paused = true)]
async fn a_part_is_not_probed_with_a_key_that_is_elsewhere() {
    let remote = Remote::new();
    remote.is_charted(false);
    remote.part_becomes(1, Mode::Failing(ErrorKind::Unavailable));
    let layer = layer(&remote, 1);
    for _ in 0..10 {
        assert!(decide(&*layer, &ask("1")).await.is_err());
    }
    assert!(layer.decide_now(&ask("0")).is_some(), "thought to be one with it");
    remote.is_charted(true);
    let end = Instant::now() + ms(4_000);
    while Instant::now() < end {
        let _refused_at_first = decide(&*layer, &ask("0")).await;
        sleep(ms(1)).await;
    }
    assert!(decide(&*layer, &ask("0")).await.is_ok());
}

/// As after a failover: no key is asked of the part that would show that it is well.
#[tokio::test(start_paused = true)]
async fn a_part_whose_keys_are_elsewhere_does_not_stay_open() {
    let remote = Remote::new();
    remote.is_charted(false);
    remote.part_becomes(1, Mode::Failing(ErrorKind::Unavailable));
    let layer = layer(&remote, 1);
    for _ in 0..10 {
        assert!(decide(&*layer, &ask("1")).await.is_err());
    }
    assert!(layer.decide_now(&ask("1")).is_some(), "it is open");
    remote.is_charted(true);
    sleep(ms(2_000)).await;
    assert!(layer.usage().parts.iter().all(|(_, state)| *state == BreakerState::Closed));
}

/// Blamed by what it is needed together with, it is found well.
#[tokio::test(start_paused = true)]
async fn a_part_that_was_blamed_for_another_s_failure_is_back_within_seconds() {
    let remote = Remote::new();
    remote.part_becomes(1, Mode::Failing(ErrorKind::Unavailable));
    let layer = layer(&remote, 1);
    let over = |parts: [&str; 2]| Request::new(parts.map(|key| check(key, quota("1000/s"), 1))).unwrap();
    for _ in 0..10 {
        assert!(decide(&*layer, &over(["1", "2"])).await.is_err());
    }
    assert!(layer.decide_now(&ask("2")).is_some(), "blamed");
    let end = Instant::now() + ms(3_000);
    while Instant::now() < end {
        let _one = decide(&*layer, &over(["1", "2"])).await;
        let _other = decide(&*layer, &over(["2", "3"])).await;
        sleep(ms(1)).await;
    }
    let parts = layer.usage().parts;
    let state = |part: u32| parts.iter().find(|(number, _)| *number == part).unwrap().1;
    assert_eq!([1, 2, 3].map(state), [BreakerState::Open, BreakerState::Closed, BreakerState::Closed]);
    assert!(decide(&*layer, &over(["2", "3"])).await.is_ok());
}
