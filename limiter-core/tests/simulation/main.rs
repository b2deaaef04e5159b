//! The whole stack over a store that loses, hangs, lies about the time and forgets, in virtual time: one seed is one run.
//!
//! `SIMULATION_SEEDS` says how many seeds are tried, 2,000 by default, and `SIMULATION_FIRST` from which on.
//! `SIMULATION_SEED` runs one and prints all that happened in it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod bounds;
mod check;
mod history;
mod plan;
mod planted;
mod run;
mod stack;
#[path = "../common/states.rs"]
mod states;
mod store;

use planted::Bug;
use run::{Built, Run};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Seeds that once failed.
const KEPT: &[u64] = &[];

const SEEDS: u64 = 2_000;

/// What so many seeds must have a great deal of, that they show something.
const HAPPENS: &[&str] = &[
    "Store allowed",
    "Store denied",
    "RememberedDenial denied",
    "Degraded allowed",
    "Degraded denied",
    "Timeout NotApplied",
    "Timeout Unknown",
    "Unavailable Unknown",
    "Config NotApplied",
    "Overloaded NotApplied",
    "asked while Open",
    "asked while Recovering",
    "probes",
    "dropped",
    "resets",
    "restarts",
    "clock steps",
];

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}")))
}

/// The first seed in the order of trying, on all cores, of which `is_found` says so.
fn first(seeds: impl Fn(u64) -> Option<u64> + Sync, is_found: impl Fn(u64) -> bool + Sync) -> Option<u64> {
    let (next, found) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = seeds(number) else { return };
                    if number > found.load(Ordering::Relaxed) {
                        return;
                    }
                    if is_found(seed) {
                        found.fetch_min(number, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Some(found.into_inner()).filter(|number| *number < u64::MAX).and_then(seeds)
}

#[test]
fn no_seed_breaks_an_invariant() {
    if let Some(seed) = from_environment("SIMULATION_SEED") {
        let run = Run::of(seed, Built::ByHand(None));
        run.print();
        assert!(run.wrong.is_empty(), "seed {seed}: {}", run.wrong[0]);
        return;
    }
    let start = from_environment("SIMULATION_FIRST").unwrap_or(0);
    let many = from_environment("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let kept = u64::try_from(KEPT.len()).unwrap();
    let seed_of = |number: u64| match number.checked_sub(kept) {
        None => KEPT.get(usize::try_from(number).unwrap()).copied(),
        Some(number) => (number < many).then(|| start + number),
    };
    let tally = Mutex::new(BTreeMap::new());
    let is_wrong = |seed| {
        let run = Run::of(seed, Built::ByHand(None));
        let mut tally = tally.lock().unwrap();
        run.tally().into_iter().for_each(|(name, count)| *tally.entry(name).or_insert(0) += count);
        !run.wrong.is_empty()
    };
    let failed = first(seed_of, is_wrong);
    if let Some(seed) = failed {
        let run = Run::of(seed, Built::ByHand(None));
        let wrong: Vec<String> = run.wrong.iter().take(5).map(ToString::to_string).collect();
        panic!(
            "seed {seed} breaks {}\nto see all of it: \
             SIMULATION_SEED={seed} cargo test -p limiter-core --test simulation no_seed -- --nocapture",
            wrong.join("\n")
        );
    }
    let tally = tally.into_inner().unwrap();
    println!("{many} seeds from {start} on, and {kept} that once failed: {tally:#?}");
    // A run in which nothing goes wrong shows nothing.
    for name in HAPPENS.iter().filter(|_| many >= SEEDS) {
        assert!(
            tally.get(*name).is_some_and(|count| *count >= SEEDS / 10),
            "{name} hardly ever happens: {tally:#?}"
        );
    }
}

/// I15.
#[test]
fn a_seed_is_one_history() {
    for seed in 0..40 {
        let [one, other] = [(); 2].map(|()| Run::of(seed, Built::ByHand(None)).hash());
        assert_eq!(one, other, "seed {seed}");
    }
}

#[test]
fn the_layers_put_together_by_hand_are_the_standard_ones() {
    for seed in 0..100 {
        let [by_hand, standard] =
            [Built::ByHand(None), Built::AsStandard].map(|built| Run::of(seed, built).callers());
        assert_eq!(by_hand, standard, "seed {seed}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::ALL {
        let is_found = |seed| {
            let wrong = Run::of(seed, Built::ByHand(Some(bug))).wrong;
            wrong.iter().any(|violation| bug.breaks().contains(&violation.invariant))
        };
        let seed = first(|number| (number < SEEDS).then_some(number), is_found);
        println!("{bug:?}: found by seed {seed:?}");
        assert!(seed.is_some(), "{bug:?} is not found by {SEEDS} seeds");
    }
}
