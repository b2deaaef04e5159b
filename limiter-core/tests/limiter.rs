//! The limiter as its users see it, over the in-process store and over stores that fail.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "common/now_or_never.rs"]
mod now_or_never;

use async_trait::async_trait;
use limiter_core::{
    Algorithm, Backend, BackendError, Caller, Decision, Effect, Error, ErrorKind, Figure, Locality, Memory,
    OnOutage, Origin, Quota, QuotaError, RateLimiter, RateLimiterBuilder, Request, Rule, Scope, Shard,
    StorageKey, Timestamp, Verdict,
};
use now_or_never::now_or_never;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const START: u64 = 1_795_465_002_435_613;
const SECOND: Duration = Duration::from_secs(1);

/// A clock that tests move by hand, in microseconds.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_micros().try_into().unwrap(), Ordering::SeqCst);
    }

    fn limiter(&self, builder: RateLimiterBuilder) -> RateLimiter {
        let micros = Arc::clone(&self.0);
        let now = move || Timestamp::from_micros(START + micros.load(Ordering::SeqCst)).unwrap();
        builder.clock(now).build().unwrap()
    }
}

/// The virtual time of a paused runtime, so that sleeping moves the limiter's clock too.
fn paused(builder: RateLimiterBuilder) -> RateLimiter {
    let start = tokio::time::Instant::now();
    let now = move || Timestamp::from_micros(START).unwrap() + start.elapsed();
    builder.clock(now).build().unwrap()
}

fn one_rule(quota: &str) -> RateLimiterBuilder {
    RateLimiter::builder(Memory::new()).rule(Rule::new("user", quota))
}

fn rules() -> RateLimiterBuilder {
    RateLimiter::builder(Memory::new())
        .rule(Rule::new("global", "10/s").scope(Scope::global()))
        .rule(Rule::new("user", "4/s").scope(Scope::per("user")))
        .rule(Rule::new("endpoint", "2/s").scope(Scope::per("user").and("endpoint")))
}

fn caller<'a>(user: &'a str, endpoint: &'a str) -> Caller<'a> {
    Caller::new().with("user", user).with("endpoint", endpoint)
}

/// What is left under each rule.
async fn remaining(limiter: &RateLimiter, caller: Caller<'_>) -> Vec<u64> {
    let verdict = limiter.check_rules(caller, 0).await.unwrap();
    verdict.rules().iter().map(|rule| rule.decision.remaining).collect()
}

/// A backend whose answers a test makes up, and which keeps what it was asked.
struct Scripted {
    answer: fn(&Request) -> Vec<Result<Verdict, BackendError>>,
    refuses: Option<Algorithm>,
    resets: Mutex<Vec<StorageKey>>,
}

impl Scripted {
    fn new(answer: fn(&Request) -> Vec<Result<Verdict, BackendError>>) -> Self {
        Self { answer, refuses: None, resets: Mutex::default() }
    }

    fn down() -> Self {
        Self::new(|_| {
            let error =
                BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, "scripted", "decide", "down");
            vec![Err(error)]
        })
    }
}

#[async_trait]
impl Backend for Scripted {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        (self.answer)(&batch[0])
    }

    fn decide_now(&self, _request: &Request) -> Option<Result<Verdict, BackendError>> {
        None
    }

    fn shard(&self, _request: &Request) -> Shard {
        Shard::One(0)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        if self.refuses == Some(quota.algorithm()) {
            return Err(QuotaError::Store {
                store: "scripted",
                quota: quota.to_string(),
                reason: "no room".to_owned(),
            });
        }
        Ok(())
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        self.resets.lock().unwrap().extend_from_slice(keys);
        Ok(())
    }

    async fn ready(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    fn may_forget(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "scripted"
    }

    fn report(&self, _tell: &mut dyn FnMut(Figure)) {}
}

#[tokio::test]
async fn any_bytes_or_text_are_a_key() {
    let limiter = one_rule("1/day").build().unwrap();
    assert!(limiter.allow("a").await);
    assert!(!limiter.allow(String::from("a")).await);
    assert!(!limiter.allow(&String::from("a")).await);
    assert!(!limiter.allow(b"a").await);
    assert!(!limiter.allow(&[b'a'][..]).await);
    assert!(!limiter.allow(vec![b'a']).await);
    assert!(limiter.allow("").await);
    assert!(limiter.allow(&[0xff, 0][..]).await);
}

#[tokio::test]
async fn new_is_a_token_bucket_per_key() {
    let limiter = RateLimiter::new(3, Duration::from_secs(86_400), Memory::new()).unwrap();
    let decision = limiter.check("a").await.unwrap();
    assert_eq!((decision.limit, decision.capacity, decision.remaining), (3, 3, 2));
    assert_eq!((decision.delay, decision.origin), (Duration::ZERO, Origin::Store));
    let (name, scope, quota) = limiter.rules().next().unwrap();
    assert_eq!((name, scope, quota.algorithm()), ("default", &Scope::key(), Algorithm::TokenBucket));
    assert!(matches!(RateLimiter::new(0, SECOND, Memory::new()), Err(Error::Quota(QuotaError::ZeroLimit))));
}

#[tokio::test]
async fn a_decision_says_everything() {
    let clock = Clock::default();
    let limiter = clock.limiter(one_rule("10/s burst 4"));
    assert_eq!(limiter.peek("a").await.unwrap().remaining, 4);
    assert!(limiter.check_n("a", 3).await.unwrap().allowed);
    let denied = limiter.check_n("a", 2).await.unwrap();
    assert_eq!((denied.allowed, denied.limit, denied.remaining), (false, 10, 1));
    assert_eq!(denied.retry_after, Some(Duration::from_millis(100)));
    assert_eq!(denied.reset_after, Duration::from_millis(300));
    clock.advance(Duration::from_millis(100));
    assert!(limiter.check_n("a", 2).await.unwrap().allowed);
    assert_eq!(limiter.check_n("a", 5).await.unwrap().retry_after, None);
}

#[test]
fn decisions_need_no_runtime_where_the_store_is_in_process() {
    let limiter = one_rule("1/day").build().unwrap();
    assert!(limiter.check_now("a").is_some_and(|d| d.allowed));
    assert!(limiter.check_now("a").is_some_and(|d| !d.allowed));
    let remote = RateLimiter::new(1, SECOND, Scripted::down()).unwrap();
    assert_eq!(remote.check_now("a"), None);
}

#[tokio::test]
async fn several_rules_are_granted_together_or_not_at_all() {
    let limiter = Clock::default().limiter(rules());
    for _ in 0..2 {
        assert!(limiter.allow(caller("42", "/search")).await);
    }
    // The endpoint's rule denies; the user's and the global one have lost nothing.
    let verdict = limiter.check_rules(caller("42", "/search"), 1).await.unwrap();
    let said: Vec<_> =
        verdict.rules().iter().map(|r| (r.rule, r.decision.allowed, r.decision.remaining)).collect();
    assert_eq!(said, [("global", true, 8), ("user", true, 2), ("endpoint", false, 0)]);
    assert!(!verdict.allowed() && !verdict.summary().allowed);
    assert_eq!(limiter.check(caller("42", "/search")).await.unwrap().limit, 2);

    assert!(limiter.allow(caller("42", "/cart")).await);
    assert_eq!(remaining(&limiter, caller("42", "/cart")).await, [7, 1, 1]);
    // Where one part ends and the next begins makes a difference.
    assert_eq!(remaining(&limiter, caller("4", "2/search")).await, [7, 4, 2]);
}

#[tokio::test]
async fn the_binding_rule_speaks_for_all() {
    let limiter = Clock::default().limiter(
        RateLimiter::builder(Memory::new())
            .rule(Rule::new("brief", "1/s"))
            .rule(Rule::new("long", "2/10s burst 1"))
            .rule(Rule::new("wide", "100/s")),
    );
    let first = limiter.check("a").await.unwrap();
    assert_eq!(
        (first.allowed, first.limit, first.remaining),
        (true, 1, 0),
        "the first of the two that are used up"
    );
    let denied = limiter.check("a").await.unwrap();
    assert_eq!((denied.limit, denied.retry_after), (2, Some(Duration::from_secs(5))), "the longest wait");
    let wide_first =
        RateLimiter::builder(Memory::new()).rule(Rule::new("wide", "100/s")).rule(Rule::new("narrow", "5/s"));
    assert_eq!(
        Clock::default().limiter(wide_first).check("a").await.unwrap().limit,
        5,
        "the least share left"
    );
    let never = limiter.check_n("a", 2).await.unwrap();
    assert_eq!((never.limit, never.retry_after), (1, None), "no wait helps");
}

#[tokio::test]
async fn a_caller_without_a_part_is_an_error_and_is_denied() {
    let limiter = rules().build().unwrap();
    let error = limiter.check("42").await.unwrap_err();
    assert_eq!(error.to_string(), "rule \"user\" counts by \"user\", which the caller does not have");
    assert!(!limiter.allow("42").await);
    assert_eq!(limiter.check_now("42"), None);
}

#[tokio::test]
async fn a_quota_changes_for_all_clones_at_the_next_decision() {
    let clock = Clock::default();
    let limiter = clock.limiter(one_rule("10/s"));
    let clone = limiter.clone();
    assert!(limiter.check_n("a", 10).await.unwrap().allowed);
    clone.set_quota("user", Quota::per_second(20)).unwrap();
    // Half a second's refill is outstanding at the old rate: what was used carries over as time.
    let decision = limiter.peek("a").await.unwrap();
    assert_eq!((decision.limit, decision.remaining), (20, 0));
    clock.advance(SECOND);
    assert_eq!(limiter.peek("a").await.unwrap().remaining, 20);

    clone.set_quota("user", "5/s fixed-window").unwrap();
    assert_eq!(limiter.check("a").await.unwrap().remaining, 4);

    assert_eq!(limiter.set_quota("usr", "1/s").unwrap_err().to_string(), "no rule has the name \"usr\"");
    assert!(matches!(limiter.set_quota("user", "0/s"), Err(Error::Quota(QuotaError::ZeroLimit))));
    assert_eq!(limiter.peek("a").await.unwrap().limit, 5, "a refused quota changes nothing");
}

#[test]
fn a_quota_can_be_changed_to_any_algorithm() {
    let limiter = one_rule("10/s").build().unwrap();
    for algorithm in Algorithm::ALL {
        let quota = Quota::per_minute(7).algorithm(algorithm).build().unwrap();
        limiter.set_quota("user", quota).unwrap();
        assert_eq!(limiter.rules().next().unwrap().2, quota);
    }
}

#[tokio::test]
async fn a_rule_chooses_its_quota_by_caller() {
    let gold = Quota::per_second(100).build().unwrap();
    let tiers = move |caller: &Caller<'_>| (caller.get("tier") == Some(b"gold")).then_some(gold);
    let rule = Rule::new("user", "1/s").scope(Scope::per("user")).quota_for(tiers);
    let limiter = RateLimiter::builder(Memory::new()).rule(rule).build().unwrap();
    let limit = async |caller| limiter.check(caller).await.unwrap().limit;
    assert_eq!(limit(Caller::new().with("user", "1").with("tier", "gold")).await, 100);
    assert_eq!(limit(Caller::new().with("user", "2")).await, 1);
    let told = limiter.check_rules(Caller::new().with("user", "3").with("tier", "gold"), 1).await.unwrap();
    assert_eq!(told.rules()[0].quota, gold, "the quota that decided, not the rule's own");
}

#[tokio::test]
async fn a_store_is_asked_whether_it_can_keep_a_quota() {
    let picky = || Scripted { refuses: Some(Algorithm::SlidingLog), ..Scripted::down() };
    let log = Quota::per_second(9).algorithm(Algorithm::SlidingLog).build().unwrap();
    let builder = |rule| RateLimiter::builder(picky()).rule(rule).build();
    let message = "scripted cannot keep 9/second sliding-log: no room";
    assert_eq!(builder(Rule::new("user", log)).unwrap_err().to_string(), message);
    let limiter = builder(Rule::new("user", "1/s")).unwrap();
    assert_eq!(limiter.set_quota("user", log).unwrap_err().to_string(), message);
    let chosen = builder(Rule::new("user", "1/s").quota_for(move |_| Some(log))).unwrap();
    assert_eq!(chosen.check("a").await.unwrap_err().to_string(), message);
}

#[tokio::test]
async fn reset_forgets_the_caller_under_every_algorithm() {
    let limiter = Clock::default().limiter(rules());
    for _ in 0..2 {
        assert!(limiter.allow(caller("42", "/search")).await);
        assert!(limiter.allow(caller("43", "/search")).await);
    }
    let user = Caller::new().with("user", "42");
    limiter.reset(user.clone()).await.unwrap();
    // The user's rule alone: the global one is everybody's, and the endpoint's needs its part too.
    assert_eq!(remaining(&limiter, caller("42", "/search")).await, [6, 4, 0]);
    assert_eq!(remaining(&limiter, caller("43", "/search")).await, [6, 2, 0]);
    limiter.reset(user).await.unwrap();
    limiter.reset(caller("42", "/search")).await.unwrap();
    assert_eq!(remaining(&limiter, caller("42", "/search")).await, [6, 4, 2]);
    limiter.reset(Caller::new()).await.unwrap();
    assert_eq!(remaining(&limiter, caller("43", "/search")).await, [10, 2, 0]);
    let error = limiter.reset("42").await.unwrap_err();
    assert_eq!(error.to_string(), "no rule counts by Caller{\"key\"}, so there is nothing to reset");
}

#[tokio::test]
async fn reset_names_the_key_under_every_algorithm() {
    let backend = Arc::new(Scripted::down());
    let limiter = RateLimiter::new(1, SECOND, Arc::clone(&backend)).unwrap();
    limiter.reset("42").await.unwrap();
    let keys = backend.resets.lock().unwrap().clone();
    assert_eq!(keys.iter().map(|key| key.keyspace().algorithm()).collect::<Vec<_>>(), Algorithm::ALL);
    assert!(keys.iter().all(|key| key.bytes() == b"42" && key.keyspace().rule() == "default"));
}

#[tokio::test]
async fn without_an_answer_the_policy_decides_and_check_says_who_did() {
    let builder = || RateLimiter::builder(Scripted::down()).rule(Rule::new("user", "2/s"));
    let three = async |limiter: RateLimiter| {
        [limiter.allow("a").await, limiter.allow("a").await, limiter.allow("a").await]
    };
    let limiter = |on_outage| builder().on_outage(on_outage).build().unwrap();
    assert_eq!(three(builder().build().unwrap()).await, [true, true, false], "its own limits by default");
    assert_eq!(three(limiter(OnOutage::default())).await, [true, true, false]);
    assert_eq!(three(limiter(OnOutage::Allow)).await, [true; 3]);
    assert_eq!(three(limiter(OnOutage::Deny)).await, [false; 3]);
    let decision = limiter(OnOutage::Deny).check("a").await.unwrap();
    assert_eq!((decision.allowed, decision.origin), (false, Origin::Degraded));
}

#[tokio::test]
async fn as_it_is_a_backend_has_no_layers_and_check_says_why() {
    let limiter = |on_outage| {
        let builder = RateLimiter::builder(Scripted::down()).rule(Rule::new("user", "1/s"));
        builder.on_outage(on_outage).as_is().build().unwrap()
    };
    assert!(limiter(OnOutage::Allow).allow("a").await);
    assert!(!limiter(OnOutage::Deny).allow("a").await);
    assert!(!limiter(OnOutage::default()).allow("a").await, "nobody holds limits here");
    let error = limiter(OnOutage::Allow).check("a").await.unwrap_err();
    let Error::Backend(error) = error else { panic!("{error}") };
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied));
}

#[tokio::test]
async fn an_answer_of_the_wrong_shape_is_an_error() {
    for answer in [(|_| Vec::new()) as fn(&Request) -> Vec<Result<Verdict, BackendError>>, |_| {
        vec![Ok(Verdict::from_iter([]))]
    }] {
        let builder = RateLimiter::builder(Scripted::new(answer)).rule(Rule::new("user", "1/s"));
        let limiter = builder.as_is().build().unwrap();
        let Err(Error::Backend(error)) = limiter.check("a").await else { panic!("an answer") };
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unexpected, Effect::Unknown));
    }
}

#[tokio::test(start_paused = true)]
async fn acquire_waits_for_a_permit() {
    let limiter = paused(one_rule("2/s"));
    let start = tokio::time::Instant::now();
    for _ in 0..4 {
        assert!(limiter.acquire("a", Duration::from_secs(10)).await.unwrap().allowed);
    }
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn acquire_waits_for_its_turn_in_a_leaky_bucket() {
    let limiter = paused(one_rule("2/s burst 10 leaky-bucket"));
    let start = tokio::time::Instant::now();
    let turn = async || {
        let decision = limiter.acquire("a", Duration::from_secs(10)).await.unwrap();
        assert_eq!(decision.delay, start.elapsed());
        decision.delay.as_millis()
    };
    let turns = tokio::join!(turn(), turn(), turn(), turn());
    assert_eq!(turns, (0, 500, 1_000, 1_500));
}

#[tokio::test(start_paused = true)]
async fn acquire_gives_up_at_once_when_the_wait_is_too_long() {
    for quota in
        ["1/s", "1/s burst 9 leaky-bucket", "1/s fixed-window", "1/s sliding-log", "1/s sliding-counter"]
    {
        let limiter = paused(one_rule(quota));
        let start = tokio::time::Instant::now();
        for _ in 0..3 {
            // The leaky bucket queues three, and has room for more; the others admit one.
            let _: Decision = limiter.check("a").await.unwrap();
        }
        let left = limiter.peek("a").await.unwrap().remaining;
        let error = limiter.acquire("a", Duration::from_millis(1)).await.unwrap_err();
        assert!(
            matches!(error, Error::WaitTooLong { wait: Some(_), max } if max == Duration::from_millis(1))
        );
        assert_eq!(start.elapsed(), Duration::ZERO, "{quota}");
        assert_eq!(limiter.peek("a").await.unwrap().remaining, left, "{quota}: nothing was taken");
    }
}

#[tokio::test(start_paused = true)]
async fn an_acquire_that_is_dropped_while_it_waits_takes_nothing() {
    let limiter = paused(one_rule("1/s"));
    assert!(limiter.allow("a").await);
    let waiting = limiter.acquire("a", Duration::from_secs(60));
    assert!(tokio::time::timeout(Duration::from_millis(500), waiting).await.is_err());
    tokio::time::advance(Duration::from_millis(500)).await;
    assert!(limiter.allow("a").await, "the permit that it waited for");
}

#[test]
fn acquire_outside_a_runtime_is_an_error() {
    let limiter = one_rule("1/day").build().unwrap();
    let acquire = || now_or_never(limiter.acquire("a", Duration::MAX));
    assert!(acquire().is_some_and(|result| result.is_ok()));
    assert!(acquire().is_some_and(|result| matches!(result, Err(Error::NoRuntime))));

    let queue = one_rule("1/day burst 9 leaky-bucket").build().unwrap();
    assert!(queue.check_now("a").is_some_and(|decision| decision.allowed));
    let waiting = now_or_never(queue.acquire("a", Duration::MAX));
    assert!(waiting.is_some_and(|result| matches!(result, Err(Error::NoRuntime))));
    let left = now_or_never(queue.peek("a")).unwrap().unwrap().remaining;
    assert_eq!(left, 8, "no permit was taken");
}

#[test]
fn what_cannot_be_built_is_told() {
    let build = |builder: RateLimiterBuilder| builder.build().unwrap_err().to_string();
    let builder = || RateLimiter::builder(Memory::new());
    assert_eq!(build(builder()), "a limiter has at least one rule");
    let twice = builder().rule(Rule::new("a", "1/s")).rule(Rule::new("a", "2/s"));
    assert_eq!(build(twice), "two rules have the name \"a\"");
    assert_eq!(build(builder().rule(Rule::new("a", "1/s burst 0"))), "burst 0 is below the least one, 1");
    let long = builder().rule(Rule::new("x".repeat(65), "1/s"));
    assert!(build(long).contains("has 65 bytes, above 64"));
}

#[test]
fn a_limiter_crosses_threads_and_its_futures_too() {
    fn sent<T: Send>(value: T) -> T {
        value
    }
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    let limiter = one_rule("1/s").build().unwrap();
    shared(&limiter);
    drop(sent(limiter.check("a")));
    drop(sent(limiter.acquire(String::from("a"), SECOND)));
}
