//! The coalescing layer under everything at once: whatever happens, each request reaches the store at most once, and
//! each caller that stays gets its own answers, once.

use crate::fake_store::{Act, FakeStore, MANY, PART, ask, id_of};
use fastrand::Rng;
use limiter_core::{Backend, BackendError, Coalesce, CoalesceConfig, Effect, Verdict};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// A round: callers with calls of some requests each, which come, wait, leave, and meet a store that is slow, short
/// of answers, or panics.
#[derive(Clone)]
struct Round {
    callers: u64,
    calls: u64,
    /// The longest that anything takes.
    unit: Duration,
    /// Whether the store sometimes never answers.
    hangs: bool,
}

#[derive(Default)]
struct Tally {
    answered: usize,
    not_applied: usize,
    unknown: usize,
    left: usize,
}

fn any_duration(rng: &mut Rng, most: Duration) -> Duration {
    most.mul_f64(rng.f64())
}

fn any_config(rng: &mut Rng) -> CoalesceConfig {
    // Now and then so much that shares are smaller.
    let times = if rng.bool() { 1 } else { 12 };
    let mut count = |most| NonZeroUsize::new(rng.usize(1..=most)).unwrap();
    let (slots, batch, queued) = (count(3), count(8 * times), count(30 * times));
    CoalesceConfig::new().eager(rng.usize(..6)).slots(slots).max_batch(batch).max_queued(queued)
}

fn store(seed: u64, unit: Duration, hangs: bool) -> Arc<FakeStore> {
    let rng = Mutex::new(Rng::with_seed(!seed));
    FakeStore::new(move |_| {
        let mut rng = rng.lock().unwrap();
        match rng.u8(..20) {
            0..8 => Act::Now,
            8..16 => Act::After(any_duration(&mut rng, unit)),
            16 => Act::Panic(any_duration(&mut rng, unit)),
            17 | 18 => Act::Short(rng.usize(1..3)),
            _ if hangs => Act::Hang,
            _ => Act::Now,
        }
    })
}

/// Requests of one part, seldom of several; all with a deadline where the store hangs.
fn any_ids(rng: &mut Rng, next: &mut u64) -> Vec<u64> {
    let length = if rng.u8(..4) == 0 { rng.u64(1..12) } else { 1 };
    let part = rng.u64(..3) * PART;
    let mixed = rng.u8(..20) == 0;
    let mut ids = Vec::new();
    for _ in 0..length {
        *next += 1;
        let part = if mixed { [0, PART, MANY][rng.usize(..3)] } else { part };
        ids.push(part + *next);
    }
    ids
}

async fn caller(
    layer: Arc<Coalesce<Arc<FakeStore>>>,
    round: Round,
    seed: u64,
    first: u64,
) -> (HashMap<u64, Option<Result<Verdict, BackendError>>>, usize) {
    let mut rng = Rng::with_seed(seed);
    let (mut next, mut got, mut left) = (first, HashMap::new(), 0);
    for _ in 0..round.calls {
        let ids = any_ids(&mut rng, &mut next);
        let timed = round.hangs || rng.u8(..3) == 0;
        let batch: Vec<_> = ids
            .iter()
            .map(|id| match timed {
                true => ask(*id).with_deadline(Instant::now() + any_duration(&mut rng, round.unit * 2)),
                false => ask(*id),
            })
            .collect();
        // A store that hangs is left only by those who leave: a call that travels alone has no timer of its own.
        let patience =
            if round.hangs || rng.u8(..4) == 0 { round.unit.mul_f64(rng.f64() * 3.0) } else { HOUR };
        let asked = Arc::clone(&layer);
        // Its own task, as a store that panics takes the caller of a single call with it.
        let mut call = tokio::spawn(async move { asked.decide(&batch).await });
        match timeout(patience, &mut call).await {
            Ok(Ok(answers)) => {
                assert_eq!(answers.len(), ids.len());
                got.extend(ids.into_iter().zip(answers.into_iter().map(Some)));
            }
            Ok(Err(panicked)) => assert!(panicked.is_panic()),
            Err(_) => {
                assert!(patience < HOUR, "nobody answered");
                call.abort();
                let _gone = call.await;
                left += ids.len();
                got.extend(ids.into_iter().map(|id| (id, None)));
            }
        }
        if rng.bool() {
            sleep(any_duration(&mut rng, round.unit / 2)).await;
        }
    }
    (got, left)
}

const HOUR: Duration = Duration::from_secs(3_600);

async fn run(seed: u64, round: Round, tally: &mut Tally) {
    let mut rng = Rng::with_seed(seed);
    let store = store(seed, round.unit, round.hangs);
    let config = any_config(&mut rng);
    let layer = Arc::new(Coalesce::new(Arc::clone(&store), config));
    let mut callers = JoinSet::new();
    for number in 0..round.callers {
        callers.spawn(caller(Arc::clone(&layer), round.clone(), rng.u64(..), number * 1_000));
    }
    let mut got = HashMap::new();
    while let Some(result) = timeout(HOUR * 10, callers.join_next()).await.unwrap() {
        let (answers, left) = result.unwrap();
        tally.left += left;
        got.extend(answers);
    }
    // Trips without a passenger may still be on their way, and no longer than anything takes.
    let start = Instant::now();
    while (layer.usage().queued, layer.usage().in_flight) != (0, 0) {
        assert!(start.elapsed() < Duration::from_secs(20), "seed {seed}: {layer:?}");
        sleep(round.unit).await;
    }
    let mut seen: HashMap<u64, u32> = HashMap::new();
    for id in store.seen().concat() {
        *seen.entry(id).or_default() += 1;
    }
    assert!(seen.values().all(|times| *times == 1), "seed {seed}: sent twice: {seen:?}");
    for (id, answer) in got {
        let sent = seen.contains_key(&id);
        match answer {
            Some(Ok(verdict)) => {
                tally.answered += 1;
                assert_eq!(id_of(&Ok(verdict)), Some(id), "seed {seed}");
                assert!(sent, "seed {seed}: {id} was answered and never sent");
            }
            Some(Err(error)) if error.effect() == Effect::NotApplied => {
                tally.not_applied += 1;
                assert!(!sent, "seed {seed}: {id} was sent: {error}");
            }
            Some(Err(_)) => tally.unknown += 1,
            None => {}
        }
    }
}

fn all_happened(tally: &Tally) {
    let Tally { answered, not_applied, unknown, left } = *tally;
    println!("{answered} answered, {not_applied} not applied, {unknown} unknown, {left} left");
    assert!([answered, not_applied, unknown, left].iter().all(|count| *count > 100));
}

/// In virtual time, one thread: the same seed is the same run.
#[test]
fn seeded_rounds() {
    let mut tally = Tally::default();
    for seed in 0..2_000 {
        let round = Round {
            callers: 2 + seed % 20,
            calls: 1 + seed % 7,
            unit: Duration::from_millis(10),
            hangs: seed % 3 == 0,
        };
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(seed, round, &mut tally));
    }
    all_happened(&tally);
}

/// In real time, on several threads.
#[test]
fn rounds_on_threads() {
    let mut tally = Tally::default();
    let runtime = Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    for seed in 0..60 {
        let round = Round { callers: 32, calls: 10, unit: Duration::from_millis(2), hangs: seed % 3 == 0 };
        runtime.block_on(run(seed, round, &mut tally));
    }
    all_happened(&tally);
}
