//! Takes the store away while instances ask it, gives it back, and shows what they answered meanwhile.

use async_trait::async_trait;
use distributed_rate_limiter::{
    Backend, BackendError, Error, Figure, Locality, OnOutage, Origin, Quota, QuotaError, RateLimiter,
    Request, Rule, Shard, StorageKey, Timestamp, Verdict,
};
use std::fmt::Write;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// Instances of one service, each with a limiter of its own.
const INSTANCES: u32 = 4;

/// Between two requests of an instance: twice as many as the quota permits, all of them together.
const PACE: Duration = Duration::from_millis(10);

const LIMIT: u64 = 200;
const BURST: u64 = 50;

/// Before the store is taken away, and after it is given back.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(4);

/// The most that a busy machine adds to a deadline, and the longest that an instance may take to notice.
const STALL: Duration = Duration::from_millis(250);
const NOTICED: Duration = Duration::from_secs(2);

const DEADLINE: Duration = Duration::from_millis(50);

/// A store that answers nobody while it is away, as one does that hangs: the worst there is, as who asks has to wait.
struct Switched {
    store: Arc<dyn Backend>,
    is_away: Arc<AtomicBool>,
}

impl Switched {
    async fn comes_back(&self) {
        while self.is_away.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[async_trait]
impl Backend for Switched {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        self.comes_back().await;
        self.store.decide(batch).await
    }

    fn decide_now(&self, _request: &Request) -> Option<Result<Verdict, BackendError>> {
        None
    }

    fn shard(&self, request: &Request) -> Shard {
        self.store.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.store.accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        self.comes_back().await;
        self.store.reset(keys).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.comes_back().await;
        self.store.ready().await
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    fn may_forget(&self) -> bool {
        self.store.may_forget()
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        self.store.report(tell);
    }

    fn name(&self) -> &'static str {
        self.store.name()
    }
}

/// What was answered since the last look.
#[derive(Default)]
struct Seen {
    by_store: AtomicU64,
    by_memory: AtomicU64,
    by_itself: AtomicU64,
    admitted: AtomicU64,
    longest_us: AtomicU64,
}

/// What an instance has to tell at the end.
struct Told {
    admitted: u64,
    waited: u64,
    longest: Duration,
    back_after: Option<Duration>,
}

/// Asks for as long as it takes, and says what was seen; an error names what should not have been. At the store's own time,
/// or by a clock.
pub(crate) async fn run(
    store: Arc<dyn Backend>,
    away: Duration,
    namespace: &str,
    clock: Option<fn() -> Timestamp>,
) -> Result<String, String> {
    let name = store.name();
    let is_away = Arc::new(AtomicBool::new(false));
    let seen = Arc::new(Seen::default());
    let start = Instant::now();
    let (taken, given) = (start + BEFORE, start + BEFORE + away);
    let end = given + AFTER;
    let mut instances = JoinSet::new();
    for _ in 0..INSTANCES {
        let store = Switched { store: Arc::clone(&store), is_away: Arc::clone(&is_away) };
        let limiter = limiter(store, namespace, clock).map_err(|error| error.to_string())?;
        instances.spawn(ask(limiter, Arc::clone(&seen), given, end));
    }
    let mut report = format!(
        "{INSTANCES} instances ask {name} for one key of {LIMIT}/second, burst {BURST}, each {} times a second.\n\
         After {} s the store hangs, for {} s. Decisions of each half second, and the longest wait:\n\n\
         {:>6}  {:<6} {:>9} {:>11} {:>10} {:>9} {:>9}\n",
        1_000 / PACE.as_millis(),
        BEFORE.as_secs(),
        away.as_secs(),
        "s",
        "store",
        "by store",
        "remembered",
        "by itself",
        "admitted",
        "wait, ms"
    );
    let mut ticks = interval(Duration::from_millis(500));
    ticks.tick().await;
    while Instant::now() < end {
        ticks.tick().await;
        let now = Instant::now();
        let was_away = (taken..given).contains(&(now - Duration::from_millis(250)));
        is_away.store((taken..given).contains(&now), Ordering::Relaxed);
        seen.row(now - start, was_away, &mut report);
    }
    let mut told = Vec::new();
    while let Some(one) = instances.join_next().await {
        told.push(one.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?);
    }
    let wrongs = summary(&told, end - start, &mut report);
    if wrongs.is_empty() { Ok(report) } else { Err(format!("{report}\n{}", wrongs.join("\n"))) }
}

fn limiter(store: Switched, namespace: &str, clock: Option<fn() -> Timestamp>) -> Result<RateLimiter, Error> {
    let instances = NonZeroU32::new(INSTANCES).unwrap_or(NonZeroU32::MIN);
    let builder = RateLimiter::builder(store);
    let builder = match clock {
        Some(clock) => builder.clock(clock),
        None => builder,
    };
    builder
        .namespace(namespace)
        .rule(Rule::new("everyone", Quota::per_second(LIMIT).burst(BURST)))
        .deadline(DEADLINE)
        .on_outage(OnOutage::Local { instances })
        .build()
}

async fn ask(limiter: RateLimiter, seen: Arc<Seen>, given: Instant, end: Instant) -> Result<Told, Error> {
    let mut told = Told { admitted: 0, waited: 0, longest: Duration::ZERO, back_after: None };
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        pace.tick().await;
        let asked = Instant::now();
        let decision = limiter.check("everyone").await?;
        let took = asked.elapsed();
        told.longest = told.longest.max(took);
        told.waited += u64::from(took >= DEADLINE);
        told.admitted += u64::from(decision.allowed);
        if decision.origin == Origin::Store && asked >= given {
            told.back_after.get_or_insert_with(|| Instant::now() - given);
        }
        let counted = match decision.origin {
            Origin::Store => &seen.by_store,
            Origin::RememberedDenial => &seen.by_memory,
            _ => &seen.by_itself,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        seen.admitted.fetch_add(u64::from(decision.allowed), Ordering::Relaxed);
        seen.longest_us.fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
    Ok(told)
}

impl Seen {
    fn row(&self, at: Duration, was_away: bool, report: &mut String) {
        let [by_store, by_memory, by_itself, admitted, longest] =
            [&self.by_store, &self.by_memory, &self.by_itself, &self.admitted, &self.longest_us]
                .map(|count| count.swap(0, Ordering::Relaxed));
        let _written = writeln!(
            report,
            "{:>6.1}  {:<6} {by_store:>9} {by_memory:>11} {by_itself:>10} {admitted:>9} {:>7}.{}",
            at.as_secs_f64(),
            if was_away { "away" } else { "there" },
            longest / 1_000,
            longest / 100 % 10,
        );
    }
}

/// What came of it, and what of that should not have been.
fn summary(told: &[Told], took: Duration, report: &mut String) -> Vec<String> {
    let admitted: u64 = told.iter().map(|one| one.admitted).sum();
    let refilled = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).saturating_mul(LIMIT) / 1_000;
    // Who is not back yet goes on by itself, while the store serves the others.
    let alone: u128 = told.iter().map(|one| (one.back_after.unwrap_or(AFTER) + STALL).as_millis()).sum();
    let alone = u64::try_from(alone).unwrap_or(u64::MAX).saturating_mul(LIMIT) / 1_000 / u64::from(INSTANCES);
    // The store's burst, the local ones, and the store's that refilled meanwhile: see `Degrade`.
    let bound = refilled + alone + 3 * BURST + u64::from(INSTANCES);
    let waited = told.iter().map(|one| one.waited).max().unwrap_or_default();
    let longest = told.iter().map(|one| one.longest).max().unwrap_or_default();
    let back = told.iter().map(|one| one.back_after).max().flatten();
    let is_back = told.iter().all(|one| one.back_after.is_some());
    let _written = writeln!(
        report,
        "\nadmitted {admitted}, and at most {bound} may be; at most {waited} calls of an instance waited for the \
         deadline of {} ms,\nnone longer than {} ms; the last instance was back with the store after {} ms",
        DEADLINE.as_millis(),
        longest.as_millis(),
        back.map_or_else(|| "more".to_owned(), |back| back.as_millis().to_string()),
    );
    let wrong = |is_so: bool, what: &str| is_so.then(|| what.to_owned());
    [
        wrong(admitted > bound, "more was admitted than the bound"),
        wrong(longest > DEADLINE + STALL, "a call outlived its deadline"),
        wrong(
            !is_back || back.is_some_and(|back| back > NOTICED + STALL),
            "an instance stayed away from the store",
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use distributed_rate_limiter::Memory;

    fn told(admitted: u64, longest: u64, back_after: Option<u64>) -> Vec<String> {
        let back_after = back_after.map(Duration::from_millis);
        let one = Told { admitted, waited: 0, longest: Duration::from_millis(longest), back_after };
        summary(&[one], Duration::from_secs(1), &mut String::new())
    }

    #[test]
    fn what_should_not_be_is_named() {
        assert!(told(354 + 125, 300, Some(2_250)).is_empty());
        assert_eq!(told(355 + 125, 300, Some(2_250)), ["more was admitted than the bound"]);
        assert_eq!(told(354, 301, Some(2_250)), ["a call outlived its deadline"]);
        assert_eq!(told(354, 300, Some(2_251)), ["an instance stayed away from the store"]);
        assert_eq!(told(354, 300, None), ["an instance stayed away from the store"]);
    }

    /// Tokio's, which is paused.
    fn paused_time() -> Timestamp {
        thread_local!(static START: Instant = Instant::now());
        Timestamp::from_micros(1_800_000_000_000_000).unwrap() + START.with(Instant::elapsed)
    }

    #[tokio::test(start_paused = true)]
    async fn outages_go_as_they_should() {
        for away in (0..100).map(|i| Duration::from_secs(1 + i % 10)) {
            let report = run(Arc::new(Memory::new()), away, "test", Some(paused_time)).await;
            let report = report.unwrap_or_else(|report| panic!("{report}"));
            assert!(report.contains("away") && report.contains("there"), "{report}");
        }
    }
}
