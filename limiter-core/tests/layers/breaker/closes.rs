//! How a breaker closes, and who is let through then.

use super::{Layer, layer, open, spawn, state};
use crate::now_or_never::now_or_never;
use crate::remote::{Call, Mode, Remote};
use crate::{ask, decide, error_of, ms};
use limiter_core::{Backend, Breaker, BreakerConfig, BreakerState, ErrorKind};
use std::sync::Arc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

/// A store that is back, and a breaker that has heard of it.
async fn recovering() -> (Remote, Layer) {
    let remote = Remote::that_is(Mode::Hung);
    let layer = layer(&remote, 1);
    open(&layer).await;
    remote.is_back();
    sleep(ms(2_000)).await;
    assert_eq!(state(&layer), BreakerState::Recovering);
    (remote, layer)
}

#[tokio::test(start_paused = true)]
async fn it_closes_by_itself_also_where_nobody_asks() {
    let (_remote, layer) = recovering().await;
    for _ in 0..32 {
        assert!(layer.decide_now(&ask("a")).is_none());
        assert!(decide(&*layer, &ask("a")).await.is_ok());
    }
    assert_eq!(state(&layer), BreakerState::Closed);
}

/// One by one, and one more with each answer.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_back_meets_no_herd() {
    let remote = Remote::that_is(Mode::Hung);
    let layer = layer(&remote, 1);
    open(&layer).await;
    remote.becomes(Mode::Slow(ms(10)));
    sleep(ms(2_000)).await;
    remote.forget_calls();
    let start = Instant::now();
    let mut callers = Vec::new();
    for _ in 0..200 {
        callers.extend((0..100).map(|_| spawn(&layer, "a")));
        sleep(ms(1)).await;
    }
    let at_once = |millis: u64| {
        let is_under_way = |call: &&Call| {
            let since = start + ms(millis);
            call.at <= since && since < call.at + ms(10)
        };
        remote.calls().iter().filter(is_under_way).count()
    };
    assert_eq!([5, 15, 25, 35, 45].map(at_once), [1, 2, 4, 8, 16]);
    assert_eq!(state(&layer), BreakerState::Closed);
    for caller in callers {
        assert!(matches!(error_of(&caller.await.unwrap()), None | Some((ErrorKind::Unavailable, _))));
    }
}

/// Fifty instances lose a store for half a minute: never more than fifty attempts in any second, and each has its first
/// answer within two seconds of its return, half of them within one.
#[tokio::test(start_paused = true)]
async fn fifty_instances_come_back_without_a_herd() {
    let (remote, started) = (Remote::that_is(Mode::Hung), Instant::now());
    let back = started + ms(30_000);
    let instances: Vec<_> = (0..50)
        .map(|seed| {
            let layer = layer(&remote, seed);
            tokio::spawn(async move {
                loop {
                    if decide(&*layer, &ask("a")).await.is_ok() {
                        return Instant::now() - back;
                    }
                    sleep(ms(5)).await;
                }
            })
        })
        .collect();
    sleep_until(back).await;
    let calls = remote.calls();
    remote.is_back();
    let mut waits = Vec::new();
    for instance in instances {
        waits.push(instance.await.unwrap());
    }
    waits.sort();
    assert!(waits[24] <= ms(1_000) && waits[49] <= ms(2_000), "{waits:?}");
    let probes: Vec<Instant> = calls.iter().filter(|call| call.is_peek).map(|call| call.at).collect();
    let in_a_second =
        |from: Instant| probes.iter().filter(|at| (from..from + ms(1_000)).contains(at)).count();
    let peak = probes.iter().map(|at| in_a_second(*at)).max().unwrap();
    assert!((25..=50).contains(&peak), "{peak} attempts in a second");
}

/// A replica that has not been told that it is to serve writes answers every probe.
#[tokio::test(start_paused = true)]
async fn a_store_that_answers_probes_alone_costs_one_caller_a_second() {
    let remote = Remote::that_is(Mode::ReadOnly);
    let layer = layer(&remote, 1);
    open(&layer).await;
    remote.forget_calls();
    for _ in 0..20_000 {
        assert!(decide(&*layer, &ask("a")).await.is_err());
        sleep(ms(1)).await;
    }
    let callers = remote.calls().iter().filter(|call| !call.is_peek).count();
    assert!((10..=20).contains(&callers), "{callers}");
    assert_eq!(layer.usage().opened, 1, "it was never closed");
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_is_dropped_makes_room_for_another() {
    let (remote, layer) = recovering().await;
    remote.becomes(Mode::Slow(ms(20)));
    let dropped = spawn(&layer, "a");
    sleep(ms(5)).await;
    assert!(layer.decide_now(&ask("a")).is_some(), "one at a time");
    dropped.abort();
    assert!(dropped.await.is_err());
    assert!(layer.decide_now(&ask("a")).is_none());
    assert!(decide(&*layer, &ask("a")).await.is_ok());
}

/// As in a stream whose consumer has other things to do: nothing drops it, and nothing becomes of it.
#[tokio::test(start_paused = true)]
async fn a_trial_that_nobody_polls_any_more_keeps_the_others_out_for_a_moment() {
    let (remote, layer) = recovering().await;
    remote.becomes(Mode::Slow(ms(20)));
    let request = ask("a");
    let mut kept = Box::pin(layer.decide_one(&request));
    assert!(now_or_never(kept.as_mut()).is_none());
    sleep(ms(999)).await;
    assert!(layer.decide_now(&ask("a")).is_some(), "it may still be answered");
    sleep(ms(1)).await;
    for _ in 0..32 {
        assert!(decide(&*layer, &ask("a")).await.is_ok());
    }
    assert_eq!(state(&layer), BreakerState::Closed);
    drop(kept);
    assert!(decide(&*layer, &ask("a")).await.is_ok());
}

/// What was let through in one recovery says nothing in the next.
#[tokio::test(start_paused = true)]
async fn an_answer_from_an_earlier_recovery_makes_no_room() {
    let remote = Remote::that_is(Mode::Failing(ErrorKind::Unavailable));
    let layer = Arc::new(Breaker::new(remote.clone(), BreakerConfig::new()));
    let ask_later = || {
        let layer = Arc::clone(&layer);
        tokio::spawn(async move { decide(&*layer, &ask("a")).await })
    };
    for _ in 0..10 {
        assert!(decide(&*layer, &ask("a")).await.is_err());
    }
    remote.is_back();
    sleep(ms(2_000)).await;
    assert!(decide(&*layer, &ask("a")).await.is_ok(), "room for two");
    remote.becomes(Mode::Slow(ms(2_300)));
    let early = ask_later();
    yield_now().await;
    remote.becomes(Mode::Failing(ErrorKind::Unavailable));
    assert!(decide(&*layer, &ask("a")).await.is_err());
    remote.is_back();
    sleep(ms(2_000)).await;
    assert!(layer.decide_now(&ask("a")).is_none(), "recovering again, with room for one");
    remote.becomes(Mode::Slow(ms(3_000)));
    let late = ask_later();
    assert!(early.await.unwrap().is_ok());
    assert!(layer.decide_now(&ask("a")).is_some(), "which is taken");
    assert!(late.await.unwrap().is_ok());
}
