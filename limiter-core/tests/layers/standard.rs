//! The layers together, as a limiter has them.

use crate::events::Events;
use crate::remote::{Mode, Remote};
use crate::{ask, decide, ms};
use limiter_core::{
    Backend, Decision, Effect, Error, ErrorKind, Locality, Memory, OnOutage, Origin, RateLimiter, Rule,
    Scope, StandardConfig, standard,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

fn limiter(remote: &Remote, quota: &'static str) -> RateLimiter {
    RateLimiter::builder(remote.clone()).rule(Rule::new("user", quota)).build().unwrap()
}

async fn check(limiter: &RateLimiter, key: &str) -> Decision {
    limiter.check(key).await.unwrap()
}

/// Whatever the store does, each call is answered by its deadline, and few wait for it.
#[tokio::test(start_paused = true)]
async fn no_call_outlives_its_deadline() {
    for mode in [Mode::Hung, Mode::Slow(ms(5_000)), Mode::Failing(ErrorKind::Unavailable), Mode::ReadOnly] {
        let remote = Remote::new();
        let limiter = limiter(&remote, "1000000/s");
        assert_eq!(check(&limiter, "a").await.origin, Origin::Store);
        remote.becomes(mode);
        let mut callers = Vec::new();
        for _ in 0..2_000 {
            let limiter = limiter.clone();
            callers.push(tokio::spawn(async move {
                let start = Instant::now();
                let decision = check(&limiter, "a").await;
                assert_eq!((decision.allowed, decision.origin), (true, Origin::Degraded));
                start.elapsed()
            }));
            sleep(ms(1)).await;
        }
        let mut waits = Vec::new();
        for caller in callers {
            waits.push(caller.await.unwrap());
        }
        assert!(waits.iter().all(|wait| *wait <= ms(50)), "{mode:?}: {:?}", waits.iter().max());
        let in_flight = 50;
        // A caller a second tries a store that answers its probes alone.
        let paid = waits.iter().filter(|wait| **wait == ms(50)).count();
        assert!(paid <= 20 + in_flight, "{mode:?}: {paid} paid");
        remote.is_back();
        let back = Instant::now();
        while check(&limiter, "a").await.origin != Origin::Store {
            sleep(ms(1)).await;
        }
        assert!(back.elapsed() <= ms(2_000), "{mode:?}: {:?}", back.elapsed());
    }
}

/// And says that nothing was done, where nothing was: the store still counts.
#[tokio::test(start_paused = true)]
async fn a_limiter_resets_nothing_in_a_store_that_is_left_alone() {
    let remote = Remote::new();
    let limiter = limiter(&remote, "3/day");
    assert_eq!(check(&limiter, "a").await.remaining, 2);
    remote.becomes(Mode::Hung);
    while limiter.check_now("b").is_none() {
        let _paid = check(&limiter, "b").await;
    }
    let start = Instant::now();
    let Err(Error::Backend(error)) = limiter.reset("a").await else { panic!("it was reset") };
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied), "{error}");
    assert_eq!(start.elapsed(), Duration::ZERO);
    remote.is_back();
    sleep(ms(2_000)).await;
    let decision = limiter.peek("a").await.unwrap();
    assert_eq!((decision.origin, decision.remaining), (Origin::Store, 2));
    limiter.reset("a").await.unwrap();
    assert_eq!(limiter.peek("a").await.unwrap().remaining, 3);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_used_up_stays_so_while_the_store_is_away() {
    let remote = Remote::new();
    let limiter = limiter(&remote, "3/day");
    for expected in [true, true, true, false] {
        assert_eq!(check(&limiter, "a").await.allowed, expected);
    }
    remote.becomes(Mode::Failing(ErrorKind::Unavailable));
    for _ in 0..50 {
        assert!(!check(&limiter, "a").await.allowed);
        assert!(!limiter.allow("a").await);
    }
    let fresh = [check(&limiter, "b").await, check(&limiter, "b").await];
    assert!(fresh.iter().all(|decision| decision.allowed && decision.origin == Origin::Degraded));
}

/// Neither a remembered denial nor a local decision needs a future.
#[tokio::test(start_paused = true)]
async fn what_is_known_here_is_answered_at_once() {
    let remote = Remote::new();
    let limiter = limiter(&remote, "1/day");
    assert!(limiter.check_now("a").is_none());
    assert!(check(&limiter, "a").await.allowed && !check(&limiter, "a").await.allowed);
    assert_eq!(limiter.check_now("a").map(|d| d.origin), Some(Origin::RememberedDenial));
    remote.becomes(Mode::Failing(ErrorKind::Unavailable));
    for key in 0..10 {
        let _degraded = check(&limiter, &format!("k{key}")).await;
    }
    assert_eq!(limiter.check_now("c").map(|d| (d.allowed, d.origin)), Some((true, Origin::Degraded)));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_the_builder_s() {
    let remote = Remote::that_is(Mode::Hung);
    let builder = RateLimiter::builder(remote).rule(Rule::new("user", "1/s"));
    let limiter = builder.deadline(ms(5)).upkeep_deadline(ms(70)).on_outage(OnOutage::Deny).build().unwrap();
    let start = Instant::now();
    assert!(!limiter.allow("a").await);
    assert_eq!(start.elapsed(), ms(5));
    assert!(limiter.ready().await.is_err() && limiter.reset("a").await.is_err());
    assert_eq!(start.elapsed(), ms(145));
}

#[tokio::test]
async fn a_store_in_this_process_is_observed_and_no_more() {
    let figures = |backend: &dyn Backend| {
        let mut names = Vec::new();
        backend.report(&mut |figure| names.push(figure.metric().name()));
        names
    };
    let memory = Memory::new();
    let observed = standard(Arc::new(memory.clone()), StandardConfig::new());
    assert_eq!((figures(&*observed), observed.locality()), (figures(&memory), Locality::InProcess));
    assert_eq!(standard(Arc::new(Remote::new()), StandardConfig::new()).locality(), Locality::Combining);
}

/// Readiness is the store's: an open breaker and a degraded mode hide nothing.
#[tokio::test(start_paused = true)]
async fn ready_tells_of_the_store() {
    let remote = Remote::that_is(Mode::Failing(ErrorKind::Config));
    let stack = standard(Arc::new(remote.clone()), StandardConfig::new());
    for _ in 0..20 {
        assert!(decide(&stack, &ask("a")).await.is_ok());
    }
    assert_eq!(stack.ready().await.map_err(|error| error.kind()), Err(ErrorKind::Config));
    remote.is_back();
    assert!(stack.ready().await.is_ok());
}

/// A store that comes and goes, callers that go away at any of their awaits: everyone else is answered in time.
#[tokio::test(start_paused = true)]
async fn dropped_calls_and_a_flapping_store_strand_nobody() {
    let mut random = fastrand::Rng::with_seed(11);
    let remote = Remote::new();
    let limiter = limiter(&remote, "1000000/s");
    let mut waiting = Vec::new();
    for _ in 0..400 {
        match random.u8(..5) {
            0 => remote.becomes(Mode::Hung),
            1 => remote.becomes(Mode::Slow(ms(random.u64(1..80)))),
            2 => remote.becomes(Mode::Failing(ErrorKind::Unavailable)),
            _ => remote.is_back(),
        }
        for _ in 0..30 {
            let limiter = limiter.clone();
            let caller = tokio::spawn(async move {
                let start = Instant::now();
                let _decision = check(&limiter, "a").await;
                start.elapsed()
            });
            if random.u8(..3) == 0 {
                for _ in 0..random.u8(..5) {
                    tokio::task::yield_now().await;
                }
                caller.abort();
            } else {
                waiting.push(caller);
            }
        }
        sleep(ms(random.u64(..40))).await;
    }
    let mut longest = Duration::ZERO;
    for caller in waiting {
        longest = longest.max(caller.await.unwrap());
    }
    assert!(longest <= ms(51), "{longest:?}");
}

/// Nobody would hear of it: the answer is a plain no.
#[tokio::test(start_paused = true)]
async fn a_caller_whom_no_rule_can_count_is_denied_and_told_of_now_and_then() {
    let events = Events::listen();
    let rule = Rule::new("user", "5/s").scope(Scope::per("user"));
    let limiter = RateLimiter::builder(Remote::new()).rule(rule).build().unwrap();
    for _ in 0..100 {
        assert!(!limiter.allow("canary").await);
    }
    let told = [events.count(r#"rule "user" counts by "user""#), events.count("canary"), events.all().len()];
    assert_eq!(told, [1, 0, 1], "{:?}", events.all());
}
