//! What is answered while the store does not answer.

use crate::events::Events;
use crate::remote::{Mode, Remote};
use crate::{Answer, ask, at, check, decide, ms, quota};
use limiter_core::{
    Algorithm, Backend, Breaker, BreakerConfig, Decision, Degrade, DegradeConfig, ErrorKind, OnOutage,
    Origin, Request,
};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::time::sleep;

const AWAY: Mode = Mode::Failing(ErrorKind::Unavailable);

fn local(instances: u32) -> OnOutage {
    OnOutage::Local { instances: NonZeroU32::new(instances).unwrap() }
}

fn layer(remote: &Remote, on_outage: OnOutage) -> Degrade<Remote> {
    Degrade::new(remote.clone(), DegradeConfig::new().on_outage(on_outage))
}

fn only(answer: Answer) -> Decision {
    answer.unwrap().summary().unwrap()
}

fn one(key: &str, text: &str, cost: u64, millis: u64) -> Request {
    Request::one(check(key, quota(text), cost)).unwrap().at(at(millis))
}

/// How many of these in a row are admitted.
async fn admitted(layer: &impl Backend, text: &str, asked: u32, millis: u64) -> u32 {
    let mut admitted = 0;
    for _ in 0..asked {
        admitted += u32::from(only(decide(layer, &one("a", text, 1, millis)).await).allowed);
    }
    admitted
}

#[tokio::test]
async fn as_long_as_the_store_answers_its_answer_is_the_answer() {
    let remote = Remote::new();
    for on_outage in [OnOutage::Allow, OnOutage::Deny, local(1), local(100)] {
        let layer = layer(&remote.another_way(), on_outage);
        remote.loses_all();
        for expected in [true, true, true, false] {
            let decision = only(decide(&layer, &one("a", "3/m", 1, 0)).await);
            assert_eq!((decision.allowed, decision.origin), (expected, Origin::Store));
        }
        assert_eq!((layer.usage().decisions, layer.usage().is_degraded), (0, false));
    }
}

#[tokio::test]
async fn fail_open_lets_all_through_and_says_so() {
    let layer = layer(&Remote::that_is(AWAY), OnOutage::Allow);
    for cost in [0, 1, 3, 4] {
        let decision = only(decide(&layer, &one("a", "3/m", cost, 0)).await);
        assert_eq!((decision.allowed, decision.origin), (true, Origin::Degraded));
        assert_eq!((decision.limit, decision.capacity, decision.remaining), (3, 3, 3));
        assert_eq!((decision.retry_after, decision.reset_after), (Some(Duration::ZERO), Duration::ZERO));
    }
}

#[tokio::test]
async fn fail_closed_lets_nobody_through_and_says_so() {
    let layer = layer(&Remote::that_is(AWAY), OnOutage::Deny);
    let second = Duration::from_secs(1);
    for (cost, allowed, retry_after) in [
        (0, true, Some(Duration::ZERO)),
        (1, false, Some(second)),
        (3, false, Some(second)),
        (4, false, None),
    ] {
        let decision = only(decide(&layer, &one("a", "3/m", cost, 0)).await);
        assert_eq!((decision.allowed, decision.origin, decision.remaining), (allowed, Origin::Degraded, 0));
        assert_eq!(decision.retry_after, retry_after, "{cost}");
    }
}

#[tokio::test]
async fn every_check_has_its_decision() {
    for on_outage in [OnOutage::Allow, OnOutage::Deny, local(2)] {
        let layer = layer(&Remote::that_is(AWAY), on_outage);
        let request = Request::new([check("a", quota("3/m"), 1), check("b", quota("4/m sliding-log"), 2)]);
        let verdict = decide(&layer, &request.unwrap().at(at(0))).await.unwrap();
        let told: Vec<_> = verdict.decisions().iter().map(|d| (d.allowed, d.limit, d.origin)).collect();
        let allowed = on_outage != OnOutage::Deny;
        let limit = if on_outage == local(2) { 2 } else { 4 };
        assert_eq!(told, [(allowed, 3, Origin::Degraded), (allowed, limit, Origin::Degraded)]);
    }
}

/// The limit is used up by way of the store: an outage hands nobody a fresh one.
#[tokio::test]
async fn local_limits_are_kept_warm() {
    for algorithm in Algorithm::ALL {
        let text = format!("8/m {algorithm}");
        for instances in [1, 4] {
            let remote = Remote::new();
            let layer = layer(&remote, local(instances));
            assert_eq!(admitted(&layer, &text, 10, 0).await, 8, "{text}");
            remote.becomes(AWAY);
            assert_eq!(admitted(&layer, &text, 10, 1).await, 0, "{text} of {instances}");
        }
    }
}

#[tokio::test]
async fn what_the_store_denies_is_not_charged() {
    let remote = Remote::new();
    let (mine, other) = (layer(&remote, local(1)), layer(&remote, local(1)));
    assert_eq!(admitted(&other, "8/m", 8, 0).await, 8);
    assert_eq!(admitted(&mine, "8/m", 5, 0).await, 0);
    remote.becomes(AWAY);
    assert_eq!(admitted(&mine, "8/m", 20, 0).await, 8);
}

/// Also where another check of the request has nothing left at this instance's share.
#[tokio::test]
async fn each_check_is_charged_by_itself() {
    let remote = Remote::new();
    let layer = layer(&remote, local(4));
    let both = |user: &str| {
        Request::new([check("everyone", quota("8/m"), 1), check(user, quota("4/m"), 1)]).unwrap().at(at(0))
    };
    for user in ["a", "b", "c"] {
        assert!(only(decide(&layer, &both(user)).await).allowed);
    }
    remote.becomes(AWAY);
    let decision = only(decide(&layer, &one("c", "4/m", 1, 0)).await);
    assert!(!decision.allowed, "its share of one was charged: {decision:?}");
    assert!(only(decide(&layer, &one("d", "4/m", 1, 0)).await).allowed);
}

/// A request of more than this instance's whole share, which the store admitted, leaves nothing of it.
#[tokio::test]
async fn a_cost_above_the_share_uses_it_up() {
    let remote = Remote::new();
    let layer = layer(&remote, local(4));
    assert!(only(decide(&layer, &one("a", "100/m", 60, 0)).await).allowed);
    remote.becomes(AWAY);
    assert_eq!(admitted(&layer, "100/m", 10, 0).await, 0);
}

/// Also where the share has less left than the cost.
#[tokio::test]
async fn a_cost_above_what_is_left_uses_it_up() {
    for text in
        ["100/m", "100/m leaky-bucket", "100/m fixed-window", "100/m sliding-log", "100/m sliding-counter"]
    {
        let remote = Remote::new();
        let layer = layer(&remote, local(4));
        for cost in [1, 60] {
            assert!(only(decide(&layer, &one("a", text, cost, 0)).await).allowed, "{text}");
        }
        remote.becomes(AWAY);
        assert_eq!(admitted(&layer, text, 30, 0).await, 0, "{text}");
    }
}

/// It can be had once the store is back.
#[tokio::test]
async fn a_cost_above_the_share_alone_is_not_denied_for_ever() {
    let layer = layer(&Remote::that_is(AWAY), local(8));
    assert!(only(decide(&layer, &one("a", "10/s", 5, 0)).await).retry_after.is_some());
    assert!(only(decide(&layer, &one("a", "10/s", 11, 0)).await).retry_after.is_none());
}

#[tokio::test]
async fn each_instance_admits_its_share() {
    for (text, instances, expected) in [
        ("100/m", 1, 100),
        ("100/m", 4, 25),
        ("10/m burst 7", 4, 2),
        ("100/m leaky-bucket", 3, 34),
        ("10/m fixed-window", 4, 3),
        ("10/m sliding-log", 3, 4),
        ("10/m sliding-counter", 100, 1),
    ] {
        let layer = layer(&Remote::that_is(AWAY), local(instances));
        assert_eq!(admitted(&layer, text, 200, 0).await, expected, "{text} of {instances}");
        // A window later: what refills is the share, too.
        let later = admitted(&layer, text, 200, 120_000).await;
        assert_eq!(later, expected, "{text} of {instances}");
    }
    let layer = layer(&Remote::that_is(AWAY), local(4));
    assert_eq!(admitted(&layer, "100/m", 200, 0).await, 25);
    assert_eq!(admitted(&layer, "100/m", 200, 12_000).await, 5, "25 a minute");
}

/// However often the store comes and goes, local limits go on from where they were.
#[tokio::test]
async fn flaps_refill_nothing() {
    let remote = Remote::new();
    let layer = layer(&remote, local(1));
    remote.becomes(AWAY);
    assert_eq!(admitted(&layer, "8/h", 10, 0).await, 8);
    for flap in 1..100 {
        remote.is_back();
        let _ = decide(&layer, &one("b", "8/h", 1, flap)).await;
        remote.becomes(AWAY);
        assert_eq!(admitted(&layer, "8/h", 10, flap).await, 0);
    }
}

#[tokio::test]
async fn a_wrong_set_up_is_answered_and_goes_on_being_reported() {
    let layer = layer(&Remote::that_is(Mode::Failing(ErrorKind::Config)), local(1));
    assert_eq!(only(decide(&layer, &one("a", "3/m", 1, 0)).await).origin, Origin::Degraded);
    assert_eq!(layer.ready().await.map_err(|error| error.kind()), Err(ErrorKind::Config));
    assert_eq!(layer.usage().errors[0], (ErrorKind::Config, 1));
}

#[tokio::test]
async fn a_reset_frees_both() {
    let remote = Remote::new();
    let layer = layer(&remote, local(1));
    assert_eq!(admitted(&layer, "3/m", 5, 0).await, 3);
    layer.reset(&[one("a", "3/m", 1, 0).checks()[0].key.clone()]).await.unwrap();
    remote.becomes(AWAY);
    assert_eq!(admitted(&layer, "3/m", 5, 0).await, 3);
    remote.is_back();
    assert_eq!(admitted(&layer, "3/m", 5, 0).await, 3);
}

/// A store that says at once that it will not answer is answered for at once.
#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_answered_for_without_a_future() {
    let remote = Remote::that_is(AWAY);
    let layer = Degrade::new(Breaker::new(remote.clone(), BreakerConfig::new()), DegradeConfig::new());
    let request = one("a", "20/m", 1, 0);
    for _ in 0..10 {
        assert!(layer.decide_now(&request).is_none());
        assert!(only(decide(&layer, &request).await).allowed);
    }
    remote.forget_calls();
    let now: Vec<bool> = (0..12).map(|_| only(layer.decide_now(&request).unwrap()).allowed).collect();
    assert_eq!(now, [[true; 10].as_slice(), &[false; 2]].concat());
    assert_eq!(remote.calls(), []);
}

#[tokio::test(start_paused = true)]
async fn the_time_without_the_store_is_counted_and_told_once() {
    let events = Events::listen();
    let remote = Remote::new();
    let layer = layer(&remote, local(1));
    for _ in 0..2 {
        remote.becomes(AWAY);
        for call in 0..=30 {
            // One part is dead and another well.
            let key = if call % 2 == 0 { "a" } else { "1" };
            let _ = decide(&layer, &ask(key)).await;
            sleep(ms(100)).await;
        }
        assert!(layer.usage().is_degraded);
        remote.is_back();
        sleep(ms(1_000)).await;
        assert!(decide(&layer, &ask("a")).await.is_ok());
    }
    let usage = layer.usage();
    assert_eq!((usage.is_degraded, usage.decisions, usage.degraded_for), (false, 32, ms(6_000)));
    let told = [events.count("gives no answer"), events.count("answers again"), events.all().len()];
    assert_eq!(told, [2, 2, 4], "{:?}", events.all());
    // From the first error to the last.
    assert_eq!(events.count("away=3s"), 2, "{:?}", events.all());
}

/// Nobody knows what the store would have said while nobody asked.
#[tokio::test(start_paused = true)]
async fn time_in_which_nobody_asks_is_not_counted() {
    let layer = layer(&Remote::that_is(AWAY), local(1));
    for _ in 0..3 {
        for _ in 0..3 {
            let _ = decide(&layer, &ask("a")).await;
            sleep(ms(200)).await;
        }
        assert!(layer.usage().is_degraded);
        sleep(ms(3_600_000)).await;
        assert!(!layer.usage().is_degraded);
    }
    // Twice 200 ms each time, and a second after each but the last.
    assert_eq!(layer.usage().degraded_for, ms(3 * 400 + 2 * 1_000));
}

/// Whoever hears of a change may ask how it is now.
#[test]
fn what_is_told_is_told_of_without_a_lock() {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
            let remote = Remote::that_is(AWAY);
            let layer = Arc::new(layer(&remote, local(1)));
            let asked = Arc::clone(&layer);
            let events = Events::listen_and(move || drop(asked.usage()));
            assert!(decide(&*layer, &ask("a")).await.is_ok());
            remote.is_back();
            sleep(ms(2_000)).await;
            assert!(decide(&*layer, &ask("a")).await.is_ok());
            assert_eq!(events.all().len(), 2);
        });
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(20)).unwrap();
}
