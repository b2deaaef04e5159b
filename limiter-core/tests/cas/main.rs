//! The loop over a store with compare-and-swap: what it sends, and what it says when the store does not.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use fake::{Fake, Mood, TRIP};
use limiter_core::{
    Algorithm, Backend, BackendError, CasBackend, CasConfig, Check, DenyCache, DenyCacheConfig, Effect,
    ErrorKind, Keyspace, Origin, Quota, Request, Verdict,
};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

type Answer = Result<Verdict, BackendError>;

const MS: Duration = Duration::from_millis(1);

fn backend(config: CasConfig) -> (Fake, CasBackend<Fake>) {
    let fake = Fake::default();
    (fake.clone(), CasBackend::with_config("fake", fake, config))
}

fn check(key: &str, quota: &str, cost: u64) -> Check {
    let quota: Quota = quota.parse().unwrap();
    let key = Keyspace::new("cas", "rule", quota.algorithm()).unwrap().key(key.as_bytes());
    Check { key, quota, cost }
}

fn request(key: &str) -> Request {
    Request::one(check(key, "100/day", 1)).unwrap()
}

async fn ask(backend: &CasBackend<Fake>, request: Request) -> Answer {
    backend.decide(&[request]).await.remove(0)
}

fn start(backend: &CasBackend<Fake>, request: Request) -> JoinHandle<Answer> {
    let backend = backend.clone();
    tokio::spawn(async move { ask(&backend, request).await })
}

fn error(answer: Answer) -> (ErrorKind, Effect) {
    let error = answer.unwrap_err();
    (error.kind(), error.effect())
}

async fn taken(backend: &CasBackend<Fake>, key: &str) -> u64 {
    let peek = Request::one(check(key, "100/day", 0)).unwrap();
    100 - ask(backend, peek).await.unwrap().summary().unwrap().remaining
}

#[tokio::test(start_paused = true)]
async fn one_write_carries_all_that_came() {
    let (fake, backend) = backend(CasConfig::new());
    let callers: Vec<_> = (0..120).map(|_| start(&backend, request("hot"))).collect();
    let mut allowed = 0;
    for caller in callers {
        allowed += u64::from(caller.await.unwrap().unwrap().allowed());
    }
    assert_eq!(allowed, 100);
    // All came before the read left; the twenty who are denied stand behind the write that uses the limit up.
    assert_eq!(fake.counts(), (1, 1, 1));
    assert_eq!(taken(&backend, "hot").await, 100);
}

#[tokio::test(start_paused = true)]
async fn the_next_write_needs_no_read() {
    let (fake, backend) = backend(CasConfig::new());
    for _ in 0..8 {
        assert!(ask(&backend, request("a")).await.unwrap().allowed());
    }
    assert_eq!(fake.counts(), (1, 8, 8));
    // Who holds a version reads again now and then, so that another process gets a turn.
    assert!(ask(&backend, request("a")).await.unwrap().allowed());
    assert_eq!(fake.counts(), (2, 9, 9));
    // Not in use any more.
    sleep(200 * MS).await;
    assert!(ask(&backend, request("a")).await.unwrap().allowed());
    assert_eq!(fake.counts(), (3, 10, 10));
    assert_eq!(backend.usage().remembered_keys, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded() {
    let (_, backend) = backend(CasConfig::new().remember(3, Duration::from_secs(1)));
    for key in ["a", "b", "c", "d", "a", "e", "a"] {
        assert!(ask(&backend, request(key)).await.unwrap().allowed());
    }
    let usage = backend.usage();
    assert_eq!((usage.remembered_keys, usage.busy_keys, usage.queued), (3, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_version_of_another_process_is_not_overwritten() {
    let (fake, one) = backend(CasConfig::new());
    let two = CasBackend::new("fake", fake.clone());
    for _ in 0..5 {
        assert!(ask(&one, request("a")).await.unwrap().allowed());
        assert!(ask(&two, request("a")).await.unwrap().allowed());
    }
    assert_eq!(taken(&one, "a").await, 10);
    // Seen to be shared after the first time, the key is read each time: two trips, and none in vain.
    let (reads, writes, applied) = fake.counts();
    assert!(applied == 10 && writes <= 13 && reads <= 14, "{reads} reads and {writes} writes for {applied}");
}

#[tokio::test(start_paused = true)]
async fn a_denial_writes_nothing_and_is_read_anew() {
    let (fake, one) = backend(CasConfig::new());
    let two = CasBackend::new("fake", fake.clone());
    let all = Request::one(check("a", "100/day", 100)).unwrap();
    assert!(ask(&one, all).await.unwrap().allowed());
    two.reset(&[check("a", "100/day", 1).key]).await.unwrap();
    // What is remembered would deny it.
    assert!(ask(&one, request("a")).await.unwrap().allowed());
    let (_, _, before) = fake.counts();
    let oversize = Request::one(check("a", "100/day", 100)).unwrap();
    assert!(!ask(&one, oversize).await.unwrap().allowed());
    assert_eq!(fake.counts().2, before);
}

#[tokio::test(start_paused = true)]
async fn exhausted_attempts_are_contention_and_nothing_is_admitted() {
    let attempts = NonZeroU32::new(5).unwrap();
    let (fake, backend) = backend(CasConfig::new().attempts(attempts));
    fake.writing(Mood::Busy);
    assert_eq!(error(ask(&backend, request("a")).await), (ErrorKind::Contention, Effect::NotApplied));
    assert_eq!(fake.counts(), (5, 5, 0));
    assert_eq!((backend.usage().conflicts, backend.usage().busy_keys), (5, 0));
    let (mut tries, mut lost) = (0, 0);
    backend.report(&mut |figure| match figure.metric().name() {
        "limiter_cas_tries_total" => tries = figure.value(),
        "limiter_cas_conflicts_total" => lost = figure.value(),
        _ => {}
    });
    assert_eq!((tries, lost), (5, 5));
    fake.writing(Mood::Well);
    assert_eq!(taken(&backend, "a").await, 0);
}

#[tokio::test(start_paused = true)]
async fn patience_bounds_attempts_too() {
    let config = CasConfig::new().attempts(NonZeroU32::MAX).patience(50 * MS);
    let (fake, backend) = backend(config);
    fake.writing(Mood::Busy);
    let started = Instant::now();
    assert_eq!(error(ask(&backend, request("a")).await), (ErrorKind::Contention, Effect::NotApplied));
    let elapsed = started.elapsed();
    assert!((50 * MS..150 * MS).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_race_is_run_again() {
    let (fake, backend) = backend(CasConfig::new());
    fake.writing(Mood::Busy);
    let callers: Vec<_> = (0..3).map(|_| start(&backend, request("a"))).collect();
    sleep(20 * MS).await;
    fake.writing(Mood::Well);
    for caller in callers {
        assert!(caller.await.unwrap().unwrap().allowed());
    }
    assert_eq!((taken(&backend, "a").await, fake.counts().2), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_is_unknown_to_all_aboard_and_not_sent_again() {
    let (fake, backend) = backend(CasConfig::new());
    fake.writing(Mood::Deaf);
    let callers: Vec<_> = (0..3).map(|_| start(&backend, request("a"))).collect();
    for caller in callers {
        assert_eq!(error(caller.await.unwrap()), (ErrorKind::Timeout, Effect::Unknown));
    }
    assert_eq!(fake.counts(), (1, 1, 1));
    fake.writing(Mood::Well);
    assert_eq!(taken(&backend, "a").await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_fails_all_who_wait() {
    let (fake, backend) = backend(CasConfig::new());
    fake.reading(Mood::Refusing);
    let callers: Vec<_> = (0..3).map(|_| start(&backend, request("a"))).collect();
    for caller in callers {
        assert_eq!(error(caller.await.unwrap()), (ErrorKind::Unavailable, Effect::NotApplied));
    }
    assert_eq!(fake.counts(), (1, 0, 0));
    assert_eq!((backend.usage().queued, backend.usage().busy_keys), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_key_does_not_wait_for_anothers_swap() {
    let (fake, backend) = backend(CasConfig::new());
    fake.writing(Mood::Hung);
    let hung = start(&backend, request("hung"));
    sleep(TRIP + 2 * MS).await;
    fake.writing(Mood::Well);
    assert!(ask(&backend, request("free")).await.unwrap().allowed());
    assert!(!hung.is_finished());
}

#[tokio::test(start_paused = true)]
async fn what_waits_at_its_deadline_is_never_sent() {
    let (fake, backend) = backend(CasConfig::new());
    fake.writing(Mood::Hung);
    let hung = start(&backend, request("a"));
    sleep(TRIP + 2 * MS).await;
    let started = Instant::now();
    let late = request("a").with_deadline(started + 20 * MS);
    assert_eq!(error(ask(&backend, late).await), (ErrorKind::Timeout, Effect::NotApplied));
    assert_eq!(started.elapsed(), 20 * MS);
    assert_eq!(backend.usage().queued, 0);
    let passed = request("b").with_deadline(started);
    assert_eq!(error(ask(&backend, passed).await), (ErrorKind::Timeout, Effect::NotApplied));
    assert_eq!(fake.counts(), (1, 1, 1));
    hung.abort();
}

/// More of them than could be if each were looked for among all.
#[tokio::test(start_paused = true)]
async fn forty_thousand_who_wait_for_one_key_leave_at_one_deadline() {
    const CALLERS: usize = 40_000;
    let (fake, backend) = backend(CasConfig::new().max_queued(NonZeroUsize::new(CALLERS).unwrap()));
    fake.reading(Mood::Hung);
    let deadline = Instant::now() + 50 * MS;
    let callers: Vec<_> =
        (0..CALLERS).map(|_| start(&backend, request("hot").with_deadline(deadline))).collect();
    sleep(49 * MS).await;
    assert_eq!(backend.usage().queued, CALLERS);
    let mut queued = None;
    backend.report(&mut |figure| {
        if figure.metric().name() == "limiter_queued_requests" {
            queued = Some(figure.value());
        }
    });
    assert_eq!(queued, Some(CALLERS as u64));
    for caller in callers {
        assert_eq!(error(caller.await.unwrap()), (ErrorKind::Timeout, Effect::NotApplied));
    }
    assert_eq!(backend.usage().queued, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_caller_is_taken_out_and_strands_nobody() {
    let (fake, backend) = backend(CasConfig::new());
    let first = start(&backend, request("a"));
    sleep(TRIP / 2).await;
    // The first is on its way, the second waits.
    let second = start(&backend, request("a"));
    let third = start(&backend, request("a"));
    tokio::task::yield_now().await;
    first.abort();
    second.abort();
    assert!(third.await.unwrap().unwrap().allowed());
    assert_eq!(taken(&backend, "a").await, 1);
    assert_eq!(fake.counts().2, 1);
}

#[tokio::test(start_paused = true)]
async fn too_many_are_refused() {
    let config = CasConfig::new().max_queued(NonZeroUsize::new(2).unwrap());
    let (fake, backend) = backend(config);
    fake.reading(Mood::Hung);
    let waiting = ["a", "b"].map(|key| start(&backend, request(key)));
    sleep(MS).await;
    for key in ["a", "c"] {
        let refused = error(ask(&backend, request(key)).await);
        assert_eq!(refused, (ErrorKind::Overloaded, Effect::NotApplied));
    }
    waiting.iter().for_each(JoinHandle::abort);
    sleep(MS).await;
    assert_eq!(backend.usage().queued, 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_store_is_an_error() {
    let (fake, backend) = backend(CasConfig::new());
    fake.writing(Mood::Panicking);
    assert_eq!(error(ask(&backend, request("a")).await), (ErrorKind::Unexpected, Effect::Unknown));
    fake.writing(Mood::Well);
    fake.reading(Mood::Panicking);
    // Reads that are lost are tried again, and then there is nobody to carry them.
    assert_eq!(error(ask(&backend, request("a")).await), (ErrorKind::Config, Effect::NotApplied));
    fake.reading(Mood::Well);
    assert!(ask(&backend, request("a")).await.unwrap().allowed());
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_left_out_are_errors() {
    let (fake, backend) = backend(CasConfig::new());
    fake.reading(Mood::Short);
    assert_eq!(error(ask(&backend, request("a")).await), (ErrorKind::Unexpected, Effect::NotApplied));
    fake.reading(Mood::Well);
    fake.writing(Mood::Short);
    assert_eq!(error(ask(&backend, request("a")).await), (ErrorKind::Unexpected, Effect::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_state_too_long_for_the_store_is_refused_and_never_sent() {
    let (fake, backend) = backend(CasConfig::new());
    let quota: Quota = "1000/day sliding-log".parse().unwrap();
    assert!(backend.accepts(&quota).is_ok());
    fake.allow_bytes(50);
    let refused = backend.accepts(&quota).unwrap_err().to_string();
    assert!(refused.contains("1000/day") && refused.contains("above 50"), "{refused}");
    let log = |cost| Request::one(check("a", "1000/day sliding-log", cost)).unwrap();
    fake.allow_bytes(12);
    assert!(ask(&backend, log(1)).await.unwrap().allowed());
    sleep(MS).await;
    assert_eq!(error(ask(&backend, log(1)).await), (ErrorKind::Config, Effect::NotApplied));
    assert_eq!(fake.counts().1, 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_is_given_back_when_a_later_key_denies() {
    let (fake, backend) = backend(CasConfig::new());
    let both = || Request::new([check("a", "100/day", 1), check("b", "1/day", 1)]).unwrap();
    // Both look before either takes: one is denied at the second key, and gives the first back.
    let asked = [start(&backend, both()), start(&backend, both())];
    let mut allowed = 0;
    for caller in asked {
        allowed += u64::from(caller.await.unwrap().unwrap().allowed());
    }
    assert_eq!((allowed, taken(&backend, "a").await), (1, 1));
    assert!(fake.counts().2 >= 3);
    // A caller that goes away leaves nothing half done.
    let gone = start(&backend, both());
    sleep(TRIP / 2).await;
    gone.abort();
    sleep(20 * MS).await;
    assert_eq!(taken(&backend, "a").await, 1);
}

/// The second of two that looked together is denied at the second key: a look, then a read and a write of each key.
async fn denied_at_the_second_key(backend: &CasBackend<Fake>, meanwhile: impl AsyncFnOnce()) {
    let both = || Request::new([check("a", "100/day", 1), check("b", "1/day", 1)]).unwrap();
    let asked = [start(backend, both()), start(backend, both())];
    sleep(4 * TRIP + 2 * MS).await;
    meanwhile().await;
    let mut allowed = 0;
    for caller in asked {
        allowed += u64::from(caller.await.unwrap().unwrap().allowed());
    }
    assert_eq!((allowed, taken(backend, "a").await), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_refuses_to_take_back_is_given_again() {
    let (fake, backend) = backend(CasConfig::new());
    denied_at_the_second_key(&backend, async || {
        fake.writing(Mood::Refusing);
        sleep(50 * MS).await;
        fake.writing(Mood::Well);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_is_not_refused_by_a_full_queue() {
    let (_, backend) = backend(CasConfig::new().max_queued(NonZeroUsize::new(4).unwrap()));
    let mut others = Vec::new();
    denied_at_the_second_key(&backend, async || {
        others.push(start(&backend, request("c")));
        sleep(MS).await;
        others.extend((0..3).map(|_| start(&backend, request("c"))));
        tokio::task::yield_now().await;
        assert_eq!(error(ask(&backend, request("d")).await), (ErrorKind::Overloaded, Effect::NotApplied));
    })
    .await;
    for other in others {
        assert!(other.await.unwrap().unwrap().allowed());
    }
}

#[test]
fn without_a_runtime_it_is_an_error() {
    let (_, backend) = backend(CasConfig::new());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let several = Request::new([check("a", "1/s", 1), check("b", "1/s", 1)]).unwrap();
    for asked in [request("a"), several] {
        let batch = [asked];
        let mut going = std::pin::pin!(backend.decide(&batch));
        let std::task::Poll::Ready(mut answers) = going.as_mut().poll(&mut context) else {
            panic!("it waits for a runtime that there is not")
        };
        assert_eq!(error(answers.remove(0)), (ErrorKind::Config, Effect::NotApplied));
    }
    let keys = [check("a", "1/s", 1).key];
    for (asked, operation) in [(backend.reset(&keys), "reset"), (backend.ready(), "ready")] {
        let std::task::Poll::Ready(Err(error)) = std::pin::pin!(asked).as_mut().poll(&mut context) else {
            panic!("it waits for a runtime that there is not, or did without")
        };
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::NotApplied));
        assert!(error.to_string().contains(operation), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_whose_caller_goes_away_is_carried_out() {
    let (_, backend) = backend(CasConfig::new());
    assert!(ask(&backend, request("a")).await.unwrap().allowed());
    let keys = [check("a", "100/day", 1).key];
    let left = tokio::time::timeout(TRIP / 2, backend.reset(&keys)).await;
    assert!(left.is_err());
    sleep(TRIP).await;
    assert_eq!(taken(&backend, "a").await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_store_says_of_itself_is_passed_on() {
    let (fake, backend) = backend(CasConfig::new());
    backend.ready().await.unwrap();
    fake.reading(Mood::Refusing);
    assert_eq!(backend.ready().await.unwrap_err().kind(), ErrorKind::Unavailable);
    fake.reading(Mood::Panicking);
    assert!(!backend.may_forget());
    fake.may_forget();
    assert!(backend.may_forget());
    let error = backend.ready().await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unexpected, Effect::Unknown));
}

#[test]
fn who_waits_when_a_runtime_ends_is_carried_by_another() {
    let (fake, backend) = backend(CasConfig::new());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (first, second) = (runtime(), runtime());
    // Its worker is on the first runtime, with a read on its way.
    let mut stranded = None;
    first.block_on(async {
        stranded = Some(start(&backend, request("a")));
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    });
    let waiting = second.spawn({
        let backend = backend.clone();
        async move { ask(&backend, request("a")).await }
    });
    second.block_on(tokio::task::yield_now());
    assert_eq!(backend.usage().queued, 2);
    drop(first);
    assert!(second.block_on(waiting).unwrap().unwrap().allowed());
    assert_eq!(fake.counts().2, 1);
    drop(stranded);
}

#[tokio::test(start_paused = true)]
async fn every_algorithm_is_kept() {
    let (_, backend) = backend(CasConfig::new());
    for algorithm in Algorithm::ALL {
        let quota = format!("2/day {algorithm}");
        let mut allowed = Vec::new();
        for _ in 0..3 {
            allowed
                .push(ask(&backend, Request::one(check("a", &quota, 1)).unwrap()).await.unwrap().allowed());
        }
        assert_eq!(allowed, [true, true, false], "{algorithm}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_can_be_remembered() {
    let (fake, backend) = backend(CasConfig::new());
    let cached = DenyCache::new(backend, DenyCacheConfig::new());
    let request = Request::one(check("a", "1/day", 1)).unwrap();
    let batch = [request.clone()];
    assert!(cached.decide(&batch).await.remove(0).unwrap().allowed());
    assert!(!cached.decide(&batch).await.remove(0).unwrap().allowed());
    let before = fake.counts();
    let remembered = cached.decide_now(&request).unwrap().unwrap();
    assert!(!remembered.allowed());
    assert_eq!(remembered.decisions()[0].origin, Origin::RememberedDenial);
    assert_eq!(fake.counts(), before);
}

/// Whether the last of two requests of these checks was denied by what was remembered, and the store was not asked.
async fn is_remembered(checks: [Check; 2]) -> bool {
    let (fake, backend) = backend(CasConfig::new());
    let cached = DenyCache::new(backend, DenyCacheConfig::new().until_reset());
    let both = Request::new(checks).unwrap();
    let batch = [both.clone()];
    while cached.decide(&batch).await.remove(0).unwrap().allowed() {}
    let before = fake.counts();
    let remembered = cached.decide_now(&both);
    assert_eq!(fake.counts(), before);
    remembered.is_some_and(|verdict| {
        let verdict = verdict.unwrap();
        assert_eq!(verdict.decisions()[0].remaining, 99);
        assert_eq!(verdict.decisions()[1].origin, Origin::RememberedDenial);
        !verdict.allowed()
    })
}

#[tokio::test(start_paused = true)]
async fn a_denial_of_several_checks_can_be_remembered() {
    for algorithm in Algorithm::ALL {
        // How a log stands that is not used up is not known for later.
        let other = if algorithm == Algorithm::SlidingLog { Algorithm::TokenBucket } else { algorithm };
        let (many, once) = (format!("100/day {other}"), format!("1/day {algorithm}"));
        assert!(is_remembered([check("a", &many, 1), check("b", &once, 1)]).await, "{algorithm}");
    }
}

/// What was taken and given back is the state no more that the denial was made on.
#[tokio::test(start_paused = true)]
async fn a_denial_on_the_way_to_giving_back_is_not_remembered() {
    let (_, backend) = backend(CasConfig::new());
    let cached = std::sync::Arc::new(DenyCache::new(backend, DenyCacheConfig::new().until_reset()));
    let both = Request::new([check("a", "100/day", 1), check("b", "1/day", 1)]).unwrap();
    let asked = [both.clone(), both.clone()].map(|request| {
        let cached = std::sync::Arc::clone(&cached);
        tokio::spawn(async move { cached.decide(&[request]).await.remove(0).unwrap().allowed() })
    });
    let mut allowed = 0;
    for caller in asked {
        allowed += u32::from(caller.await.unwrap());
    }
    assert_eq!(allowed, 1);
    assert!(cached.decide_now(&both).is_none());
}
