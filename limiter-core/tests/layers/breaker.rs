//! When a breaker opens, who is let through meanwhile, and when it closes.

use crate::events::Events;
use crate::remote::{Call, Mode, Remote};
use crate::{Answer, ask, check, decide, error_of, ms, quota};
use limiter_core::{
    Backend, Breaker, BreakerConfig, BreakerState, Coalesce, CoalesceConfig, Deadline, DeadlineConfig,
    Effect, ErrorKind, Request,
};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep, sleep_until};

type Layer = Arc<Breaker<Deadline<Remote>>>;

const OPEN: Option<(ErrorKind, Effect)> = Some((ErrorKind::Unavailable, Effect::NotApplied));
const PAID: Option<(ErrorKind, Effect)> = Some((ErrorKind::Timeout, Effect::Unknown));

fn layer(remote: &Remote, seed: u64) -> Layer {
    let inner = Deadline::new(remote.clone(), DeadlineConfig::new());
    Arc::new(Breaker::new(inner, BreakerConfig::new().seed(seed)))
}

fn state(layer: &Layer) -> BreakerState {
    layer.usage().parts[0].1
}

fn spawn(layer: &Layer, key: &'static str) -> JoinHandle<Answer> {
    let layer = Arc::clone(layer);
    tokio::spawn(async move { decide(&*layer, &ask(key)).await })
}

/// Asks until it is open.
async fn open(layer: &Layer) {
    for _ in 0..20 {
        let _failed = decide(&**layer, &ask("a")).await;
        if state(layer) == BreakerState::Open {
            return;
        }
    }
    panic!("{layer:?}");
}

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

/// One at a time, jittered, at least a second apart, and nobody else.
#[tokio::test(start_paused = true)]
async fn while_it_is_open_only_probes_reach_the_store() {
    for seed in 0..20 {
        let remote = Remote::that_is(Mode::Hung);
        let layer = layer(&remote, seed);
        open(&layer).await;
        remote.forget_calls();
        let opened = Instant::now();
        for _ in 0..3_000 {
            assert_eq!(error_of(&decide(&*layer, &ask("a")).await), OPEN);
            sleep(ms(10)).await;
        }
        let probes = remote.calls();
        assert!(probes.iter().all(|call| call.is_peek));
        assert!(probes[0].at - opened <= ms(251), "{:?}", probes[0].at - opened);
        let gaps: Vec<_> = probes.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        assert!(gaps.iter().all(|gap| (ms(1_000)..=ms(1_752)).contains(gap)), "{gaps:?}");
        assert!(gaps.iter().any(|gap| *gap > ms(1_250)), "wider with time: {gaps:?}");
        assert_eq!(layer.usage().probes, u64::try_from(probes.len()).unwrap());
    }
}

/// Twice as far apart each time, up to the longest; less up to half by chance.
#[tokio::test(start_paused = true)]
async fn probes_grow_rarer() {
    for seed in 0..20 {
        let remote = Remote::that_is(Mode::Failing(ErrorKind::Unavailable));
        let config =
            BreakerConfig::new().probe_interval(ms(100)).longest_probe_interval(ms(1_000)).seed(seed);
        let layer = Breaker::new(remote.clone(), config);
        for _ in 0..10 {
            assert!(decide(&layer, &ask("a")).await.is_err());
        }
        remote.forget_calls();
        sleep(ms(10_000)).await;
        let gaps: Vec<_> = remote.calls().windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        for (gap, full) in gaps.iter().zip([100, 200, 400, 800].into_iter().chain(std::iter::repeat(1_000))) {
            let least = ms(full / 2).max(ms(100));
            assert!((least..=ms(full + 2)).contains(gap), "{gap:?} of {full} ms: {gaps:?}");
        }
        assert!(gaps.len() >= 10, "{gaps:?}");
    }
}

/// A store to which a connection has to be made first answers nobody within a caller's deadline.
#[tokio::test(start_paused = true)]
async fn a_probe_has_a_deadline_of_its_own() {
    for (takes, is_heard) in [(60, true), (490, true), (510, false)] {
        let remote = Remote::that_is(Mode::Hung);
        let inner =
            Deadline::new(Coalesce::new(remote.clone(), CoalesceConfig::new()), DeadlineConfig::new());
        let layer = Breaker::new(inner, BreakerConfig::new().seed(1));
        for _ in 0..10 {
            assert!(decide(&layer, &ask("a")).await.is_err());
        }
        remote.becomes(Mode::Slow(ms(takes)));
        sleep(ms(1_500)).await;
        let state = layer.usage().parts[0].1;
        let expected = if is_heard { BreakerState::Recovering } else { BreakerState::Open };
        assert_eq!(state, expected, "{takes} ms");
        if is_heard {
            let start = Instant::now();
            assert!(decide(&layer, &ask("a")).await.is_err(), "a caller's own is as it was");
            assert_eq!(start.elapsed(), ms(50));
        }
    }
}

/// Also where no layer below knows of deadlines.
#[tokio::test(start_paused = true)]
async fn a_probe_is_given_up_by_its_deadline() {
    let remote = Remote::that_is(Mode::Failing(ErrorKind::Unavailable));
    let layer = Breaker::new(remote.clone(), BreakerConfig::new().seed(1));
    for _ in 0..10 {
        assert!(decide(&layer, &ask("a")).await.is_err());
    }
    remote.becomes(Mode::Hung);
    sleep(ms(10_000)).await;
    let probes = layer.usage().probes;
    assert!((5..=10).contains(&probes), "{probes}");
}

#[tokio::test(start_paused = true)]
async fn it_closes_by_itself_also_where_nobody_asks() {
    let remote = Remote::that_is(Mode::Hung);
    let layer = layer(&remote, 1);
    open(&layer).await;
    remote.is_back();
    sleep(ms(2_000)).await;
    assert_eq!(state(&layer), BreakerState::Recovering);
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
    let remote = Remote::that_is(Mode::Hung);
    let layer = layer(&remote, 1);
    open(&layer).await;
    remote.is_back();
    sleep(ms(2_000)).await;
    remote.becomes(Mode::Slow(ms(20)));
    let dropped = spawn(&layer, "a");
    sleep(ms(5)).await;
    assert!(layer.decide_now(&ask("a")).is_some(), "one at a time");
    dropped.abort();
    assert!(dropped.await.is_err());
    assert!(layer.decide_now(&ask("a")).is_none());
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
    remote.becomes(Mode::Slow(ms(3_000)));
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

/// While it is open no caller touches the store, whatever the call.
#[tokio::test(start_paused = true)]
async fn a_reset_is_refused_at_once_where_a_request_is() {
    let remote = Remote::new();
    let layer = layer(&remote, 1);
    let key = |of: &str| ask(of).checks()[0].key.clone();
    let left = async |of: &str| {
        decide(&remote, &Request::one(check(of, quota("1000/s"), 0)).unwrap()).await.unwrap().decisions()[0]
            .remaining
    };
    assert!(decide(&*layer, &ask("2")).await.is_ok());
    remote.part_becomes(1, Mode::Hung);
    for _ in 0..10 {
        assert!(decide(&*layer, &ask("1")).await.is_err());
    }
    let start = Instant::now();
    for keys in [vec![key("1")], vec![key("2"), key("1")]] {
        let error = layer.reset(&keys).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied), "{error}");
        assert_eq!(error.to_string(), "remote reset: the breaker is open (unavailable; not recorded)");
    }
    assert_eq!((start.elapsed(), left("2").await), (Duration::ZERO, 999), "nothing of it was done");
    layer.reset(&[key("2")]).await.unwrap();
    assert_eq!(left("2").await, 1_000);
    remote.is_back();
    sleep(ms(2_000)).await;
    layer.reset(&[key("1"), key("2")]).await.unwrap();
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
