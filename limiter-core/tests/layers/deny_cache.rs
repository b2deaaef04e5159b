//! Which denials are remembered, for how long, and what they say meanwhile.

use crate::remote::{Mode, Remote};
use crate::{Answer, at, check, decide, ms, quota};
use limiter_core::{
    Algorithm, Backend, Decision, Degrade, DegradeConfig, DenyCache, DenyCacheConfig, ErrorKind, OnOutage,
    Origin, Request, Timestamp, Verdict,
};
use limiter_testkit::Reference;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::Instant;

fn layer(remote: &Remote) -> DenyCache<Remote> {
    DenyCache::new(remote.clone(), DenyCacheConfig::new())
}

fn one(text: &str, cost: u64, now: Timestamp) -> Request {
    Request::one(check("a", quota(text), cost)).unwrap().at(now)
}

fn only(answer: Answer) -> Decision {
    answer.unwrap().summary().unwrap()
}

/// The answer from memory, if there is one.
fn remembered(layer: &impl Backend, request: &Request) -> Option<Verdict> {
    let verdict = layer.decide_now(request)?.unwrap();
    assert!(!verdict.allowed());
    assert!(verdict.decisions().iter().all(|decision| decision.origin == Origin::RememberedDenial));
    Some(verdict)
}

/// The same, as the store would have said it.
fn by_the_store(mut decision: Decision) -> Decision {
    decision.origin = Origin::Store;
    decision
}

/// Denies `cost` of a quota at an instant, and everything that led to it.
async fn denied(layer: &impl Backend, text: &str, cost: u64, now: Timestamp) -> Decision {
    for _ in 0..100 {
        let decision = only(decide(layer, &one(text, cost, now)).await);
        if !decision.allowed {
            return decision;
        }
    }
    panic!("{text} never denies {cost}")
}

/// Until the promised instant, less a tick, each field is what the store would say; then the store is asked.
#[tokio::test]
async fn a_denial_holds_until_the_instant_that_it_promised() {
    for algorithm in Algorithm::ALL {
        for text in ["5/100ms", "7/99ms", "3/500ms"] {
            let text = format!("{text} {algorithm}");
            let remote = Remote::new();
            let layer = layer(&remote);
            let now = at(1_000_033);
            let denial = denied(&layer, &text, 1, now).await;
            let wait = denial.retry_after.unwrap();
            assert!(wait < ms(1_000), "{text}");
            let micros = u64::try_from(wait.as_micros()).unwrap();
            let tick = if algorithm == Algorithm::SlidingCounter { 1_000 } else { 1 };
            for since in [0, 1, micros / 3, micros / 2, micros - tick] {
                let request = one(&text, 1, now + Duration::from_micros(since));
                let said =
                    remembered(&layer, &request).unwrap_or_else(|| panic!("{text} {since} of {micros}"));
                let asked = only(decide(&remote, &request).await);
                assert_eq!(by_the_store(said.summary().unwrap()), asked, "{text} {since} of {micros}");
            }
            assert_eq!(remembered(&layer, &one(&text, 1, now + wait)), None, "{text}");
            assert!(only(decide(&layer, &one(&text, 1, now + wait)).await).allowed, "{text}");
        }
    }
}

/// Random costs and instants against core's functions, which only ever say no where a denial is remembered.
#[tokio::test]
async fn what_is_remembered_is_what_the_state_says() {
    for (seed, algorithm) in (0..40).flat_map(|seed| Algorithm::ALL.map(|algorithm| (seed, algorithm))) {
        let mut random = fastrand::Rng::with_seed(seed);
        let text = format!("{}/{}ms {algorithm}", random.u64(1..=12), random.u64(50..2_000));
        let (remote, mut reference) = (Remote::new(), Reference::new());
        let layer = layer(&remote);
        let (mut now, mut hits) = (at(1_000_000), 0);
        for _ in 0..300 {
            now = now + Duration::from_micros(random.u64(..60_000));
            let request = one(&text, random.u64(..=14), now);
            let expected = reference.decide(request.checks(), now)[0];
            let said = only(decide(&layer, &request).await);
            assert_eq!(by_the_store(said), expected, "{text} {seed}");
            hits += u32::from(said.origin == Origin::RememberedDenial);
        }
        assert_eq!(layer.usage().hits, u64::from(hits));
    }
}

#[tokio::test]
async fn a_denied_three_denies_a_later_four_and_no_one() {
    let layer = layer(&Remote::new());
    let (text, now) = ("10/s burst 10", at(0));
    assert!(only(decide(&layer, &one(text, 8, now)).await).allowed);
    assert!(!only(decide(&layer, &one(text, 3, now)).await).allowed);
    assert!(remembered(&layer, &one(text, 3, now)).is_some());
    assert!(remembered(&layer, &one(text, 4, now)).is_some_and(|v| v.decisions()[0].remaining == 2));
    assert!(remembered(&layer, &one(text, 11, now)).is_some_and(|v| v.decisions()[0].retry_after.is_none()));
    assert_eq!(remembered(&layer, &one(text, 1, now)), None);
    assert_eq!(remembered(&layer, &one(text, 0, now)), None, "a peek");
    let wait = ms(100);
    assert!(remembered(&layer, &one(text, 4, now + wait)).is_some());
    assert_eq!(remembered(&layer, &one(text, 3, now + wait)), None, "as promised");
}

/// A look at where a key stands changes nothing, wherever it is answered.
#[tokio::test]
async fn a_peek_forgets_no_denial() {
    let layer = layer(&Remote::new());
    let _denial = denied(&layer, "1/m", 1, at(0)).await;
    assert!(only(decide(&layer, &one("1/m", 0, at(1))).await).allowed);
    assert!(remembered(&layer, &one("1/m", 1, at(2))).is_some());
}

/// Which entries have left since is known only where the oldest is the one to wait for.
#[tokio::test]
async fn a_log_answers_for_the_cost_that_was_one_too_many() {
    let layer = layer(&Remote::new());
    let text = "4/s sliding-log";
    assert!(only(decide(&layer, &one(text, 2, at(0))).await).allowed);
    assert!(!only(decide(&layer, &one(text, 3, at(0))).await).allowed);
    assert!(remembered(&layer, &one(text, 3, at(999))).is_some());
    assert_eq!(remembered(&layer, &one(text, 4, at(1))), None);
    assert!(!only(decide(&layer, &one(text, 4, at(1))).await).allowed);
    assert_eq!(remembered(&layer, &one(text, 4, at(1))), None, "two too many");
}

#[tokio::test]
async fn it_is_held_for_no_longer_than_it_may_be() {
    let (usual, forgetful) = (Remote::new(), Remote::that_forgets());
    for (remote, config, held, over) in [
        (&usual, DenyCacheConfig::new(), 999, 1_000),
        (&usual, DenyCacheConfig::new().hold(ms(20)), 19, 20),
        (&usual, DenyCacheConfig::new().until_reset(), 59_999, 60_000),
        (&forgetful, DenyCacheConfig::new(), 59_999, 60_000),
        (&forgetful, DenyCacheConfig::new().hold(ms(20)), 19, 20),
    ] {
        remote.loses_all();
        let layer = DenyCache::new(remote.clone(), config);
        let _denial = denied(&layer, "1/m", 1, at(0)).await;
        assert!(remembered(&layer, &one("1/m", 1, at(held))).is_some(), "{config:?}");
        assert_eq!(remembered(&layer, &one("1/m", 1, at(over))), None, "{config:?}");
    }
}

/// By the cache's own clock, which is no test's.
#[tokio::test]
async fn what_has_run_out_takes_no_room() {
    let layer = DenyCache::new(Remote::new(), DenyCacheConfig::new().hold(ms(1)));
    let _denial = denied(&layer, "1/m", 1, at(0)).await;
    assert_eq!(layer.usage().remembered, 1);
    let began = std::time::Instant::now();
    while layer.usage().remembered > 0 {
        assert!(began.elapsed() < ms(30_000), "it is still there");
        std::thread::sleep(ms(50));
    }
}

/// A store of which a key at a time is taken, and given back where another denies, says no meanwhile: of a rule that is asked
/// about together with others a denial is kept for good once it is said again.
#[tokio::test]
async fn what_may_be_given_back_is_asked_about_once_more() {
    let remote = Remote::that_forgets();
    let layer = layer(&remote);
    let day = "10/day fixed-window";
    let take = async |now| decide(&remote, &one(day, 5, now)).await.unwrap().allowed();
    let both = [check("c", quota(day), 1), check("1", quota(day), 1)];
    assert!(decide(&layer, &Request::new(both).unwrap().at(at(0))).await.unwrap().allowed());
    // Taken by one who will give it back.
    assert!(take(at(0)).await);
    assert!(!only(decide(&layer, &one(day, 6, at(0))).await).allowed);
    assert!(remembered(&layer, &one(day, 6, at(999))).is_some());
    assert!(remembered(&layer, &one(day, 6, at(1_000))).is_none());
    // Something else is seen then than what was remembered.
    assert!(decide(&remote, &one(day, 1, at(500))).await.unwrap().allowed());
    assert!(!only(decide(&layer, &one(day, 6, at(1_000))).await).allowed);
    assert!(remembered(&layer, &one(day, 6, at(2_000))).is_none());
    // Then the same.
    assert!(!only(decide(&layer, &one(day, 6, at(2_000))).await).allowed);
    assert!(remembered(&layer, &one(day, 6, at(3_600_000))).is_some());
    remote.loses_all();
    assert!(remembered(&layer, &one(day, 6, at(3_600_001))).is_some());
}

/// Callers of a hot key are on their way side by side: who is told last has heard no less.
#[tokio::test(start_paused = true)]
async fn what_is_said_again_to_two_at_a_time_is_kept_too() {
    let remote = Remote::that_forgets();
    let layer = layer(&remote);
    let day = "10/day fixed-window";
    let both = [check("c", quota(day), 1), check("1", quota(day), 1)];
    assert!(decide(&layer, &Request::new(both).unwrap().at(at(0))).await.unwrap().allowed());
    assert!(decide(&remote, &one(day, 10, at(0))).await.unwrap().allowed());
    remote.becomes(Mode::Slow(ms(5)));
    for millis in [1, 1_001] {
        let (first, second) = (one(day, 1, at(millis)), one(day, 1, at(millis + 1)));
        let answers = tokio::join!(decide(&layer, &first), decide(&layer, &second));
        assert!(!only(answers.0).allowed && !only(answers.1).allowed);
    }
    assert!(remembered(&layer, &one(day, 1, at(3_600_000))).is_some());
}

/// Of a rule that nobody is ever asked about together with others, nothing is given back.
#[tokio::test]
async fn nothing_is_given_back_of_what_is_asked_about_alone() {
    let remote = Remote::that_forgets();
    let layer = layer(&remote);
    let _denial = denied(&layer, "1/day", 1, at(0)).await;
    remote.loses_all();
    assert!(remembered(&layer, &one("1/day", 1, at(3_600_000))).is_some());
}

/// Time counts from the question: half a trip less than from the answer, and never past the promise.
#[tokio::test]
async fn time_counts_from_when_it_was_asked() {
    let remote = Remote::that_is(Mode::Slow(ms(60)));
    let layer = DenyCache::new(remote.clone(), DenyCacheConfig::new().hold(ms(80)));
    let request = Request::one(check("a", quota("1/m"), 1)).unwrap();
    assert!(only(decide(&layer, &request).await).allowed);
    let before = Instant::now();
    assert!(!only(decide(&layer, &request).await).allowed);
    // It was asked in between. Had it counted from the answer, it would be held until 140 ms.
    let sent = remote.calls()[1].at;
    loop {
        let since_sent = sent.elapsed();
        if remembered(&layer, &request).is_none() {
            // Two clocks, of which one may be faster by millionths.
            assert!(before.elapsed() >= ms(79));
            return;
        }
        assert!(since_sent < ms(81), "{since_sent:?}");
    }
}

#[tokio::test]
async fn a_new_quota_is_asked_about() {
    let layer = layer(&Remote::new());
    let _denial = denied(&layer, "1/m", 1, at(0)).await;
    for text in ["2/m", "1/s", "1/m burst 2", "1/m fixed-window"] {
        assert_eq!(remembered(&layer, &one(text, 1, at(0))), None, "{text}");
    }
    assert!(remembered(&layer, &one("1/m", 1, at(0))).is_some());
}

#[tokio::test]
async fn a_clock_that_stepped_back_and_another_kind_of_time_are_asked_about() {
    let layer = layer(&Remote::new());
    let _denial = denied(&layer, "1/m", 1, at(10)).await;
    assert_eq!(remembered(&layer, &one("1/m", 1, at(9))), None);
    assert_eq!(remembered(&layer, &Request::one(check("a", quota("1/m"), 1)).unwrap()), None);
    assert!(remembered(&layer, &one("1/m", 1, at(10))).is_some());
}

#[tokio::test]
async fn every_check_of_a_request_is_answered() {
    let layer = layer(&Remote::new());
    let both = |millis| {
        let checks = [check("everyone", quota("10/s"), 1), check("user", quota("1/m"), 1)];
        Request::new(checks).unwrap().at(at(millis))
    };
    assert!(only(decide(&layer, &both(0)).await).allowed);
    let denial = decide(&layer, &both(0)).await.unwrap();
    let said = remembered(&layer, &both(50)).unwrap();
    let fields = |verdict: &Verdict| -> Vec<_> {
        verdict.decisions().iter().map(|d| (d.allowed, d.remaining, d.reset_after)).collect()
    };
    assert_eq!(fields(&denial), [(true, 9, ms(100)), (false, 0, ms(60_000))]);
    assert_eq!(fields(&said), [(true, 9, ms(50)), (false, 0, ms(59_950))]);
    let alone = Request::one(check("everyone", quota("10/s"), 1)).unwrap().at(at(50));
    assert_eq!(remembered(&layer, &alone), None, "it does not deny by itself");
}

#[tokio::test]
async fn a_reset_is_seen_at_once_and_of_no_other_key() {
    let remote = Remote::new();
    let layer = layer(&remote);
    let other = Request::one(check("b", quota("1/m"), 1)).unwrap().at(at(0));
    for request in [&one("1/m", 1, at(0)), &other] {
        assert!(only(decide(&layer, request).await).allowed);
        assert!(!only(decide(&layer, request).await).allowed);
    }
    layer.reset(&[one("1/m", 1, at(0)).checks()[0].key.clone()]).await.unwrap();
    assert_eq!(remembered(&layer, &one("1/m", 1, at(0))), None);
    assert!(only(decide(&layer, &one("1/m", 1, at(0))).await).allowed);
    assert!(remembered(&layer, &other).is_some());
}

/// The denial is on its way while the key is reset: it is not remembered, whichever of them ends first.
#[tokio::test(start_paused = true)]
async fn a_denial_that_a_reset_overtakes_is_not_remembered() {
    for reset_at in [5, 15, 25] {
        let remote = Remote::new();
        let layer = Arc::new(layer(&remote));
        let request = one("1/m", 1, at(0));
        assert!(only(decide(&*layer, &request).await).allowed);
        remote.becomes(Mode::Slow(ms(20)));
        let asking = {
            let (layer, request) = (Arc::clone(&layer), request.clone());
            tokio::spawn(async move { only(decide(&*layer, &request).await) })
        };
        tokio::time::sleep(ms(reset_at)).await;
        layer.reset(&[request.checks()[0].key.clone()]).await.unwrap();
        let _whichever = asking.await.unwrap();
        assert_eq!(remembered(&*layer, &request), None, "{reset_at}");
    }
}

/// Asked after the reset was begun and decided before it was done: forgotten when it is, also if nobody waits for it.
#[tokio::test(start_paused = true)]
async fn a_denial_within_a_reset_is_forgotten_with_it() {
    let remote = Remote::new();
    let layer = Arc::new(layer(&remote));
    let request = one("1/m", 1, at(0));
    assert!(only(decide(&*layer, &request).await).allowed);
    remote.becomes(Mode::Hung);
    let resetting = {
        let (layer, key) = (Arc::clone(&layer), request.checks()[0].key.clone());
        tokio::spawn(async move { layer.reset(&[key]).await })
    };
    yield_now().await;
    remote.is_back();
    assert!(!only(decide(&*layer, &request).await).allowed);
    assert!(remembered(&*layer, &request).is_some());
    resetting.abort();
    assert!(resetting.await.is_err());
    assert_eq!(remembered(&*layer, &request), None);
}

#[tokio::test]
async fn it_goes_on_while_the_store_is_away_and_learns_nothing_then() {
    let remote = Remote::new();
    let inner = Degrade::new(remote.clone(), DegradeConfig::new().on_outage(OnOutage::Deny));
    let layer = DenyCache::new(inner, DenyCacheConfig::new());
    let _denial = denied(&layer, "1/m", 1, at(0)).await;
    remote.becomes(Mode::Failing(ErrorKind::Unavailable));
    assert!(remembered(&layer, &one("1/m", 1, at(900))).is_some());
    let other = Request::one(check("b", quota("1/m"), 1)).unwrap().at(at(0));
    assert_eq!(only(decide(&layer, &other).await).origin, Origin::Degraded);
    assert_eq!(remembered(&layer, &other), None);
}

/// Of a batch, what is known is not sent, and every answer is in its place.
#[tokio::test]
async fn of_a_batch_only_the_unknown_is_sent() {
    let remote = Remote::new();
    let layer = layer(&remote);
    let _denial = denied(&layer, "1/m", 1, at(0)).await;
    let key = |key: &str| Request::one(check(key, quota("5/m"), 1)).unwrap().at(at(1));
    let batch = [key("b"), one("1/m", 1, at(1)), key("c"), one("1/m", 1, at(2))];
    remote.forget_calls();
    let answers: Vec<_> = layer.decide(&batch).await.into_iter().map(only).collect();
    let told: Vec<_> = answers.iter().map(|d| (d.allowed, d.limit, d.origin)).collect();
    let (sent, known) = ((true, 5, Origin::Store), (false, 1, Origin::RememberedDenial));
    assert_eq!(told, [sent, known, sent, known]);
    assert_eq!(remote.calls().len(), 1);
    let all_known = layer.decide(&batch[1..2]).await;
    assert_eq!((all_known.len(), remote.calls().len()), (1, 1));
}

#[tokio::test]
async fn a_flood_of_denials_is_bounded() {
    let layer = DenyCache::new(Remote::new(), DenyCacheConfig::new().capacity(100));
    for key in 0..2_000 {
        let request = Request::one(check(&format!("k{key}"), quota("1/m"), 1)).unwrap().at(at(0));
        assert!(only(decide(&layer, &request).await).allowed);
        assert!(!only(decide(&layer, &request).await).allowed);
    }
    let remembered = layer.usage().remembered;
    assert!((1..=100).contains(&remembered), "{remembered}");
}
