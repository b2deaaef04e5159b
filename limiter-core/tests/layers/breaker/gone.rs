//! What a breaker tells of itself, and what goes without a trace: calls, runtimes, breakers.

use super::{layer, open, spawn, state};
use crate::events::Events;
use crate::remote::{Mode, Remote};
use crate::{ask, decide, ms};
use limiter_core::{Backend, Breaker, BreakerConfig, BreakerState, Deadline, DeadlineConfig, ErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn each_change_is_told_once_and_no_key_is() {
    let events = Events::listen();
    let remote = Remote::that_is(Mode::Hung);
    let layer = layer(&remote, 1);
    for _ in 0..3_000 {
        let _failed = decide(&*layer, &ask("canary")).await;
        sleep(ms(1)).await;
    }
    remote.is_back();
    sleep(ms(2_000)).await;
    for _ in 0..100 {
        assert!(decide(&*layer, &ask("canary")).await.is_ok());
    }
    assert_eq!([events.count("has opened"), events.count("has closed")], [1, 1]);
    assert_eq!((events.all().len(), events.count("canary")), (2, 0), "{:?}", events.all());
}

/// Whoever hears of a change may ask how it is now.
#[test]
fn what_is_told_is_told_of_without_a_lock() {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
            for kind in [ErrorKind::Unavailable, ErrorKind::Config] {
                let remote = Remote::that_is(Mode::Failing(kind));
                let layer = layer(&remote, 1);
                let asked = Arc::clone(&layer);
                let events = Events::listen_and(move || drop(asked.usage()));
                open(&layer).await;
                sleep(ms(120_000)).await;
                remote.is_back();
                sleep(ms(20_000)).await;
                for _ in 0..64 {
                    assert!(decide(&*layer, &ask("a")).await.is_ok());
                }
                let told = [events.count("has opened"), events.count("has closed")];
                assert_eq!(told, [1, 1]);
            }
        });
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_is_gone_probes_no_more() {
    let remote = Remote::that_is(Mode::Hung);
    let layer = layer(&remote, 1);
    open(&layer).await;
    drop(layer);
    remote.forget_calls();
    sleep(ms(10_000)).await;
    assert_eq!(remote.calls(), []);
}

/// A program that asks by `block_on`, one decision after another: as an open breaker answers at once, the task that probes
/// never has its turn, and is on a runtime all the same.
#[test]
fn a_runtime_that_is_driven_for_answers_alone_gets_the_store_back() {
    let remote = Remote::that_is(Mode::Failing(ErrorKind::Unavailable));
    let inner = Deadline::new(remote.clone(), DeadlineConfig::new());
    let config = BreakerConfig::new().probe_interval(ms(20)).probe_timeout(ms(20));
    let layer = Arc::new(Breaker::new(inner, config));
    let (mine, other) =
        (Builder::new_current_thread().enable_time().build().unwrap(), Runtime::new().unwrap());
    let ask = |runtime: &Runtime| runtime.block_on(async { decide(&*layer, &ask("a")).await });
    mine.block_on(open(&layer));
    remote.is_back();
    // Those of another runtime, which is driven, are no worse off.
    for runtime in [&mine, &other] {
        let start = std::time::Instant::now();
        while state(&layer) != BreakerState::Closed {
            let _refused_or_not = ask(runtime);
            assert!(start.elapsed() < Duration::from_secs(20), "{layer:?}");
        }
        remote.becomes(Mode::Failing(ErrorKind::Unavailable));
        while state(&layer) != BreakerState::Open {
            assert!(ask(&mine).is_err());
        }
        remote.is_back();
    }
}

/// Of those who only want an answer at once one is offered the probe each time, and the others are answered; a reset is
/// no probe.
#[test]
fn an_open_breaker_answers_at_once_and_resets_nothing_whoever_probes() {
    let remote = Remote::that_is(Mode::Hung);
    let inner = Deadline::new(remote.clone(), DeadlineConfig::new());
    let config = BreakerConfig::new().probe_interval(ms(20)).probe_timeout(ms(20));
    let layer = Arc::new(Breaker::new(inner, config));
    let (mine, other) =
        (Builder::new_current_thread().enable_time().build().unwrap(), Runtime::new().unwrap());
    mine.block_on(open(&layer));
    remote.forget_calls();
    std::thread::sleep(ms(100));
    other.block_on(async {
        let start = std::time::Instant::now();
        let unanswered = (0..1_000).filter(|_| layer.decide_now(&ask("a")).is_none()).count();
        let most = 1 + start.elapsed().as_millis() as usize / 20;
        assert!((1..=most).contains(&unanswered), "{unanswered}");
        let keys = [ask("a").checks()[0].key.clone()];
        for _ in 0..40 {
            assert_eq!(layer.reset(&keys).await.unwrap_err().kind(), ErrorKind::Unavailable);
        }
    });
    assert_eq!(remote.calls(), []);
    drop(mine);
}

/// The task that probes goes with the runtime that it was started on, and the next call starts another.
#[test]
fn a_runtime_that_shuts_down_takes_no_breaker_along() {
    let remote = Remote::that_is(Mode::Failing(ErrorKind::Unavailable));
    let inner = Deadline::new(remote.clone(), DeadlineConfig::new());
    let layer = Arc::new(Breaker::new(inner, BreakerConfig::new().probe_interval(ms(20))));
    let runtime = || Builder::new_current_thread().enable_time().build().unwrap();
    let first = runtime();
    first.block_on(open(&layer));
    drop(first);
    remote.is_back();
    runtime().block_on(async {
        while decide(&*layer, &ask("a")).await.is_err() {
            sleep(ms(1)).await;
        }
    });
}

#[test]
fn without_a_runtime_a_caller_is_the_probe() {
    let remote = Remote::that_is(Mode::Failing(ErrorKind::Unavailable));
    let layer = Breaker::new(remote.clone(), BreakerConfig::new().probe_interval(ms(20)));
    let ask_it = || soon(layer.decide(&[ask("a")])).map(|answers| answers[0].is_ok());
    for _ in 0..10 {
        assert_eq!(ask_it(), Some(false));
    }
    assert!(layer.decide_now(&ask("a")).is_some(), "open, and no probe is due");
    remote.is_back();
    std::thread::sleep(ms(40));
    assert!(layer.decide_now(&ask("a")).is_none(), "due");
    assert_eq!(ask_it(), Some(true));
    assert!(layer.decide_now(&ask("a")).is_none());
}

/// That it has none is its own fault.
#[test]
fn a_caller_without_a_runtime_does_not_open_it() {
    let layer = Breaker::new(Remote::that_is(Mode::Failing(ErrorKind::Config)), BreakerConfig::new());
    for _ in 0..100 {
        assert_eq!(soon(layer.decide(&[ask("a")])).map(|answers| answers.len()), Some(1));
    }
    assert_eq!(layer.usage().opened, 0);
}

/// What the future gives after a few polls.
fn soon<T>(future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut context) = (pin!(future), Context::from_waker(Waker::noop()));
    (0..4).find_map(|_| match future.as_mut().poll(&mut context) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    })
}

/// Ten thousand calls, a third of them dropped at one of their awaits, while the store comes and goes.
#[tokio::test(start_paused = true)]
async fn dropped_calls_leave_nothing_behind() {
    let mut random = fastrand::Rng::with_seed(7);
    let remote = Remote::new();
    let layer = layer(&remote, 7);
    for round in 0..200 {
        match round % 4 {
            0 => remote.becomes(Mode::Hung),
            1 => remote.becomes(Mode::Slow(ms(3))),
            2 => remote.becomes(Mode::Failing(ErrorKind::Unavailable)),
            _ => remote.is_back(),
        }
        for _ in 0..50 {
            let caller = spawn(&layer, "a");
            if random.u8(..3) == 0 {
                for _ in 0..random.u8(..4) {
                    yield_now().await;
                }
                caller.abort();
            }
            if random.u8(..10) == 0 {
                sleep(ms(random.u64(..60))).await;
            }
        }
    }
    remote.is_back();
    sleep(ms(3_000)).await;
    for _ in 0..64 {
        assert!(decide(&*layer, &ask("a")).await.is_ok(), "{layer:?}");
    }
    assert_eq!(state(&layer), BreakerState::Closed);
}
