//! A store under load: one thing varied at a time, from one scenario that all stores share.

use crate::{Pace, Progress};
use benches::keys::Keys;
use benches::load::{Arrivals, Contestant, Scenario, Turns, compete};
use benches::report::{Load, LoadRow, Open, OpenStep};
use benches::stores::{Fallible, Store, Work, library};
use limiter_core::{Algorithm, Quota, QuotaBuilder};
use std::sync::Arc;

/// What is measured of a store, as the progress bar counts.
pub(crate) const STEPS: usize = 7;

/// Shares of the rate of a closed loop at which an open loop runs.
const SHARES: [f64; 5] = [0.1, 0.25, 0.5, 0.7, 0.85];

const CALLERS: usize = 64;

const DEFAULT: Algorithm = Algorithm::TokenBucket;

pub(crate) struct Measured {
    pub(crate) loads: Vec<Load>,
    pub(crate) open: Open,
}

struct Bench<'s> {
    store: &'s dyn Store,
    names: &'s Arc<[String]>,
    pace: Pace,
    progress: &'s Progress,
    loads: Vec<Load>,
}

pub(crate) async fn measure(
    store: &dyn Store,
    algorithms: &[Algorithm],
    names: &Arc<[String]>,
    pace: Pace,
    progress: &Progress,
) -> Fallible<Measured> {
    let mut bench = Bench { store, names, pace, progress, loads: Vec::new() };
    let uniform = Keys::uniform(benches::KEYS);

    let mut contestants = store.bare().await?;
    // What all stores are compared by is among them.
    let others = algorithms.iter().copied().filter(|algorithm| *algorithm != DEFAULT);
    for algorithm in std::iter::once(DEFAULT).chain(others) {
        contestants.push(bench.library(algorithm.name(), Work::one(many(algorithm))).await?);
    }
    bench.closed("64 callers, 100,000 keys", CALLERS, &uniform, &contestants).await;

    let mut contestants = store.bare().await?;
    contestants.push(bench.library("token-bucket", Work::one(many(DEFAULT))).await?);
    bench.closed("1 caller, 100,000 keys", 1, &uniform, &contestants).await;
    bench.closed("256 callers, 100,000 keys", 256, &uniform, &contestants).await;
    bench
        .closed("64 callers, Zipf over 100,000 keys", CALLERS, &Keys::zipf(benches::KEYS), &contestants)
        .await;
    bench.closed("64 callers, one hot key", CALLERS, &Keys::hot(), &contestants).await;
    contestants.drain(1..contestants.len() - 1);
    let open = bench.open(&uniform, &contestants).await;

    let mut contestants: Vec<_> = store.bare().await?.into_iter().take(1).collect();
    let mixed = Work { mixed: true, ..Work::one(many(DEFAULT)) };
    for (name, work) in [
        ("1 rule, cost 1", Work::one(many(DEFAULT))),
        ("1 rule, costs 1 to 11", mixed),
        ("3 rules, cost 1", Work::three(many(DEFAULT))),
    ] {
        contestants.push(bench.library(name, work).await?);
    }
    bench.closed("token-bucket, 64 callers, 100,000 keys", CALLERS, &uniform, &contestants).await;
    Ok(Measured { loads: bench.loads, open })
}

impl Bench<'_> {
    async fn library(&self, name: &'static str, work: Work) -> Fallible<Contestant> {
        library(name, self.store.backend(false).await?, work, self.names)
    }

    async fn closed(&mut self, name: &str, callers: usize, keys: &Keys, contestants: &[Contestant]) {
        self.progress.step(&format!("{}: {name}", self.store.name()));
        let turns = self.compete(Arrivals::Closed(callers), keys, contestants).await;
        self.loads.push(Load::new(self.store.name(), name, &turns));
    }

    /// At shares of what the slower of these reached with as many callers as all stores are compared by.
    async fn open(&self, keys: &Keys, contestants: &[Contestant]) -> Open {
        self.progress.step(&format!("{}: open loop", self.store.name()));
        let known = |contestant: &Contestant| {
            let mut rows = self.loads.first()?.rows.iter();
            rows.find(|row| row.name == contestant.name).map(|row| row.rate)
        };
        let reached = contestants.iter().filter_map(known).fold(f64::INFINITY, f64::min);
        let mut steps = Vec::new();
        for share in SHARES {
            let offered = share * reached;
            let turns = self.compete(Arrivals::Open(offered), keys, contestants).await;
            let rows = turns.iter().map(|(name, own)| LoadRow::new(name, own, &turns[0].1)).collect();
            steps.push(OpenStep { offered, rows });
        }
        Open {
            store: self.store.name().to_owned(),
            scenario: "requests when they are due, 100,000 keys".to_owned(),
            steps,
        }
    }

    async fn compete<'c>(
        &self,
        arrivals: Arrivals,
        keys: &Keys,
        contestants: &'c [Contestant],
    ) -> Vec<(&'c str, Turns)> {
        let scenario = Scenario { arrivals, keys: keys.clone(), turn: self.pace.turn };
        let turns = compete(contestants, &scenario, self.pace.repetitions).await;
        contestants.iter().map(|contestant| contestant.name).zip(turns).collect()
    }
}

/// A quota that admits nearly everything over many keys.
const fn many(algorithm: Algorithm) -> QuotaBuilder {
    match algorithm {
        Algorithm::SlidingLog => Quota::per_second(1_000).algorithm(algorithm),
        _ => benches::plenty(algorithm),
    }
}
