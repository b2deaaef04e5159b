//! When a breaker opens, and when it does not.

use super::{OPEN, PAID, layer, open, spawn, state};
use crate::events::Events;
use crate::remote::{Mode, Remote};
use crate::{ask, decide, error_of, ms};
use limiter_core::{
    Backend, Breaker, BreakerConfig, BreakerState, Deadline, DeadlineConfig, ErrorKind, Request,
};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn a_hung_store_is_left_alone_after_ten_calls() {
    let remote = Remote::that_is(Mode::Hung);
    let layer = layer(&remote, 1);
    for call in 1..=10 {
        assert!(layer.decide_now(&ask("a")).is_none(), "{call}");
        assert_eq!(error_of(&decide(&*layer, &ask("a")).await), PAID, "{call}");
    }
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(layer.decide_now(&ask("a")).as_ref().and_then(error_of), OPEN);
        assert_eq!(error_of(&decide(&*layer, &ask("a")).await), OPEN);
    }
    assert_eq!((start.elapsed(), remote.calls().len()), (Duration::ZERO, 10));
    assert_eq!((layer.usage().refused, layer.usage().opened), (200, 1));
}

/// Of a steady thousand a second, those pay who were on their way when the tenth had paid.
#[tokio::test(start_paused = true)]
async fn under_load_few_pay_the_deadline() {
    let layer = layer(&Remote::that_is(Mode::Hung), 1);
    let mut callers = Vec::new();
    for _ in 0..1_000 {
        callers.push(spawn(&layer, "a"));
        sleep(ms(1)).await;
    }
    let mut paid = 0;
    for caller in callers {
        paid += usize::from(error_of(&caller.await.unwrap()) == PAID);
    }
    let in_flight = 50;
    assert!(paid <= 20 + in_flight, "{paid} paid");
}

/// However many requests it carried.
#[tokio::test(start_paused = true)]
async fn one_failed_trip_is_one_failure() {
    let remote = Remote::that_is(Mode::Failing(ErrorKind::Unavailable));
    let layer = layer(&remote, 1);
    let batch: Vec<Request> = (0..100).map(|_| ask("a")).collect();
    for trip in 1..=10 {
        assert!(layer.decide_now(&ask("a")).is_none(), "{trip}");
        assert_eq!(layer.decide(&batch).await.len(), 100);
    }
    assert_eq!(state(&layer), BreakerState::Open);
}

/// What refused a connection is told to all who come until the next attempt, which is no reason to go on asking.
#[tokio::test(start_paused = true)]
async fn whoever_is_told_an_old_failure_later_has_failed_too() {
    let remote = Remote::that_is(Mode::Refusing);
    let layer = layer(&remote, 1);
    for call in 1..=10 {
        assert!(layer.decide_now(&ask("a")).is_none(), "{call}");
        assert!(decide(&*layer, &ask("a")).await.is_err(), "{call}");
    }
    assert_eq!((state(&layer), remote.calls().len()), (BreakerState::Open, 10));
}

/// Side by side they are one.
#[tokio::test(start_paused = true)]
async fn those_under_way_together_meet_an_old_failure_once() {
    let remote = Remote::that_is(Mode::Refusing);
    let layer = layer(&remote, 1);
    for round in 1..=9 {
        let callers: Vec<_> = (0..100).map(|_| spawn(&layer, "a")).collect();
        for caller in callers {
            assert!(caller.await.unwrap().is_err());
        }
        assert!(layer.decide_now(&ask("a")).is_none(), "{round}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_between_starts_the_count_afresh() {
    let remote = Remote::new();
    let layer = layer(&remote, 1);
    for _ in 0..2 {
        remote.becomes(Mode::Failing(ErrorKind::Unavailable));
        for _ in 0..9 {
            assert!(decide(&*layer, &ask("a")).await.is_err());
        }
        remote.is_back();
        assert!(decide(&*layer, &ask("a")).await.is_ok());
    }
    assert_eq!(layer.usage().opened, 0);
}

/// Of each hundred calls, spread over a second, so many fail. Neither ten in a row, nor below half.
#[tokio::test(start_paused = true)]
async fn the_share_of_failures_opens_it_and_a_fifth_does_not() {
    for (share, opens) in [(20, false), (45, false), (55, true)] {
        let remote = Remote::new();
        let layer = layer(&remote, 1);
        for call in 0..3_000_u64 {
            // Evenly spread, a prime's multiple of the place.
            if call * 37 % 100 < share {
                remote.becomes(Mode::Failing(ErrorKind::Unavailable));
            } else {
                remote.is_back();
            }
            let _answer = decide(&*layer, &ask("a")).await;
            sleep(ms(10)).await;
        }
        assert_eq!(layer.usage().opened > 0, opens, "{share} %");
    }
}

/// Of a store that was well for long, but for one failure, seven of eight calls fail: what it answered before hides
/// nothing.
#[tokio::test(start_paused = true)]
async fn a_store_that_begins_to_fail_in_part_is_left_alone_as_soon_as_any() {
    let remote = Remote::new();
    let layer = layer(&remote, 1);
    for call in 0..1_000 {
        if call == 10 {
            remote.becomes(Mode::Failing(ErrorKind::Unavailable));
        } else {
            remote.is_back();
        }
        assert_eq!(decide(&*layer, &ask("a")).await.is_err(), call == 10);
        sleep(ms(8)).await;
    }
    let mut failed = 0;
    for call in 0.. {
        if call % 8 == 0 {
            remote.is_back();
        } else {
            remote.becomes(Mode::Failing(ErrorKind::Unavailable));
        }
        failed += usize::from(decide(&*layer, &ask("a")).await.is_err());
        if state(&layer) == BreakerState::Open {
            break;
        }
        sleep(ms(8)).await;
    }
    assert!(failed <= 20, "{failed} calls failed");
}

/// More than there are marks for, and an answer after each.
#[tokio::test(start_paused = true)]
async fn very_many_failures_are_counted_in_bounded_space() {
    for (most, opens) in [(600, true), (601, false)] {
        let remote = Remote::new();
        let config = BreakerConfig::new().min_failures(NonZeroU32::new(most).unwrap());
        let layer = Arc::new(Breaker::new(Deadline::new(remote.clone(), DeadlineConfig::new()), config));
        for _ in 0..600 {
            remote.becomes(Mode::Failing(ErrorKind::Unavailable));
            assert!(decide(&*layer, &ask("a")).await.is_err());
            remote.is_back();
            if state(&layer) == BreakerState::Closed {
                assert!(decide(&*layer, &ask("a")).await.is_ok());
            }
        }
        assert_eq!(layer.usage().opened > 0, opens, "{most}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_about_the_store_does_not_open_it() {
    for kind in [ErrorKind::Overloaded, ErrorKind::Contention, ErrorKind::Corrupt, ErrorKind::Unexpected] {
        let layer = layer(&Remote::that_is(Mode::Failing(kind)), 1);
        for _ in 0..100 {
            assert!(decide(&*layer, &ask("a")).await.is_err());
        }
        assert_eq!(layer.usage().opened, 0, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_set_up_is_reported_and_probed_for_slowly() {
    let events = Events::listen();
    let remote = Remote::that_is(Mode::Failing(ErrorKind::Config));
    let layer = layer(&remote, 1);
    open(&layer).await;
    remote.forget_calls();
    sleep(ms(60_000)).await;
    let probes = remote.calls();
    assert!(probes.windows(2).all(|pair| pair[1].at - pair[0].at >= ms(5_000)), "{probes:?}");
    assert!(probes.len() >= 6, "{probes:?}");
    assert_eq!(events.count("set up wrong"), 1, "{:?}", events.all());
    sleep(ms(60_000)).await;
    assert_eq!(events.count("set up wrong"), 2, "once a minute: {:?}", events.all());
}
