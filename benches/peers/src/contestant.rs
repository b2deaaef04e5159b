//! Who is compared, each deciding on one permit of a key that it is given as a `String`.

use governor::DefaultKeyedRateLimiter;
use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use limiter_core::{Backend, BackendError, Keyspaces, Memory, Quota, RateLimiter, Request, Verdict};
use std::error::Error;
use std::hint::black_box;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use throttlecrab::AdaptiveStore;

pub(crate) const GOVERNOR: &str = "governor check_key(&String)";
/// With the answer that everyone else here gives too: what remains, or how long to wait.
pub(crate) const GOVERNOR_TELLS: &str = "governor, telling what remains";
pub(crate) const MEMORY: &str = "Memory::decide_now, request from a String";
pub(crate) const PREBUILT: &str = "Memory::decide_now, request built before";
pub(crate) const CHECK: &str = "RateLimiter::check, polled";

/// One who decides.
pub(crate) trait Contestant: Sync {
    fn name(&self) -> &'static str;

    /// Decides on the keys at these indices, one after another; how many were admitted.
    fn run(&self, keys: &[String], order: &[usize]) -> usize;
}

/// A contestant from a closure over an index and its key: the loop around it is compiled for each.
struct Decider<F> {
    name: &'static str,
    decide: F,
}

impl<F: Fn(usize, &String) -> bool + Sync> Contestant for Decider<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, keys: &[String], order: &[usize]) -> usize {
        order.iter().filter(|index| (self.decide)(**index, black_box(&keys[**index]))).count()
    }
}

/// Everyone, governor first, each with an own store.
pub(crate) fn contestants(
    quota: Quota,
    fractional: Quota,
    keys: &[String],
) -> Result<Vec<Box<dyn Contestant>>, Box<dyn Error>> {
    let rule = benches::keyspaces()?;
    let (governor, clock) = (governor(quota)?, governor::clock::DefaultClock::default());
    let telling = self::governor(quota)?.with_middleware::<StateInformationMiddleware>();
    let [memory, remainder, prebuilt] = [(); 3].map(|()| Memory::new());
    let requests: Vec<_> = keys.iter().map(|key| Request::by_key(&rule, key.as_bytes(), &quota, 1)).collect();
    let now = RateLimiter::new(1, Duration::from_secs(1), Memory::new())?;
    let polled = RateLimiter::new(1, Duration::from_secs(1), Memory::new())?;
    for limiter in [&now, &polled] {
        limiter.set_quota(RateLimiter::DEFAULT_NAME, quota)?;
    }
    let mut contestants = vec![
        decider(GOVERNOR, move |_, key| governor.check_key(key).is_ok()),
        decider(GOVERNOR_TELLS, move |_, key| match telling.check_key(key) {
            Ok(snapshot) => black_box(snapshot.remaining_burst_capacity()) < u32::MAX,
            Err(denied) => black_box(denied.wait_time_from(clock.now())).is_zero(),
        }),
        decider(MEMORY, move |_, key| ask(&memory, &rule, key, &quota)),
        decider("the same, a remainder in the quota", move |_, key| ask(&remainder, &rule, key, &fractional)),
        decider(PREBUILT, move |index, _| allowed(prebuilt.decide_now(&requests[index]))),
        decider("RateLimiter::check_now", move |_, key| now.check_now(key).is_some_and(|d| d.allowed)),
        decider(CHECK, move |_, key| {
            benches::poll_once(polled.check(key)).is_some_and(|answer| answer.is_ok_and(|d| d.allowed))
        }),
    ];
    // Of a burst of one it admits all: the state of a first request, which then takes no time to come back, ends at once.
    if quota.capacity() > 1 {
        contestants.insert(2, throttlecrab(quota)?);
    }
    Ok(contestants)
}

/// throttlecrab's limiter of the same quota, with its adaptive store. It decides through `&mut`, so that it is behind a lock,
/// and takes the time from its caller. The store has room for all keys from the start, as its server gives it: one that
/// is three quarters full looks through all of them at each decision.
fn throttlecrab(quota: Quota) -> Result<Box<dyn Contestant>, Box<dyn Error>> {
    let [burst, limit, period] =
        [quota.capacity(), quota.limit(), quota.window().as_secs()].map(i64::try_from);
    let (burst, limit, period) = (burst?, limit?, period?);
    let limiter = Mutex::new(::throttlecrab::RateLimiter::new(AdaptiveStore::with_capacity(benches::KEYS)));
    Ok(decider("throttlecrab, adaptive store, in a Mutex", move |_, key| {
        let mut limiter = limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = limiter.rate_limit(key, burst, limit, period, 1, SystemTime::now());
        answer.is_ok_and(|(allowed, _)| allowed)
    }))
}

/// governor's limiter of the same quota, with its default store and clock.
pub(crate) fn governor(quota: Quota) -> Result<DefaultKeyedRateLimiter<String>, Box<dyn Error>> {
    let limit = NonZeroU64::try_from(quota.limit())?;
    let burst = NonZeroU32::try_from(u32::try_from(quota.capacity())?)?;
    let interval = quota.window() / u32::try_from(limit.get())?;
    let quota = governor::Quota::with_period(interval).ok_or("an interval of zero")?.allow_burst(burst);
    Ok(DefaultKeyedRateLimiter::keyed(quota))
}

/// Asks for one permit of a key.
pub(crate) fn ask(memory: &Memory, rule: &Keyspaces, key: &str, quota: &Quota) -> bool {
    allowed(memory.decide_now(&Request::by_key(rule, key.as_bytes(), quota, 1)))
}

fn allowed(answer: Option<Result<Verdict, BackendError>>) -> bool {
    matches!(&answer, Some(Ok(verdict)) if verdict.allowed())
}

fn decider(
    name: &'static str,
    decide: impl Fn(usize, &String) -> bool + Sync + 'static,
) -> Box<dyn Contestant> {
    Box::new(Decider { name, decide })
}
