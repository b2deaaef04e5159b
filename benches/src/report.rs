//! What a comparison found, as data, and the pages that are made of it: [`html::page`], [`markdown::page`], and JSON.

mod advice;
pub mod charts;
pub mod html;
pub mod markdown;
pub mod setting;
mod svg;
mod tables;

pub use setting::Setting;

use crate::accuracy::TraceReport;
use crate::accuracy::cost::Cost;
use crate::load::{Turn, Turns};
use serde::{Deserialize, Serialize};

/// Everything that a run found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Where and when it ran, and what.
    pub setting: Setting,
    /// The limit and window of the accuracy traces.
    pub quota: String,
    /// What each policy made of each trace.
    pub traces: Vec<TraceReport>,
    /// The time of a decision without a store.
    pub costs: Vec<Cost>,
    /// Decisions in this process, by pattern of keys.
    pub in_process: Vec<InProcess>,
    /// Bytes per key, by store.
    pub weights: Vec<Weights>,
    /// Closed loops, by store and scenario.
    pub loads: Vec<Load>,
    /// Open loops, by store.
    pub open: Vec<Open>,
    /// What other crates came to, in runs of their own.
    pub peers: Peers,
}

/// What a program in `benches/peers` found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peers {
    /// The crates that were compared with, and their versions.
    pub versions: Vec<String>,
    /// Decisions in this process, by what was asked.
    pub in_process: Vec<InProcess>,
    /// Bytes per key in this process.
    pub weights: Vec<Weights>,
    /// Closed loops, by store and scenario.
    pub loads: Vec<Load>,
}

impl Peers {
    /// Adds what another program found.
    pub fn extend(&mut self, other: Self) {
        let new = other.versions.into_iter().filter(|version| !self.versions.contains(version));
        self.versions.extend(new.collect::<Vec<_>>());
        self.in_process.extend(other.in_process);
        self.weights.extend(other.weights);
        self.loads.extend(other.loads);
    }

    /// Writes the file that `compare --peers` reads, if the program was told to: `--json FILE`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_if_asked(&self) -> std::io::Result<()> {
        match std::env::args().skip_while(|arg| arg != "--json").nth(1) {
            Some(path) => std::fs::write(path, serde_json::to_string_pretty(self)?),
            None => Ok(()),
        }
    }
}

/// Bytes per key in a store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// The store.
    pub store: String,
    /// How they were counted.
    pub counted_by: String,
    /// By policy.
    pub bytes: Vec<Weight>,
}

/// Bytes per key under a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// The policy.
    pub policy: String,
    /// Of a key of 24 bytes.
    pub bytes: f64,
}

/// What a pattern of keys came to in this process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InProcess {
    /// The pattern.
    pub keys: String,
    /// The first is the one to which ratios are.
    pub rows: Vec<InProcessRow>,
}

/// What one who decides in this process took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InProcessRow {
    /// Who.
    pub name: String,
    /// Nanoseconds per decision, the median of the turns.
    pub nanos: f64,
    /// To the first, the median of the ratios within a turn.
    pub ratio: f64,
}

/// What contestants came to in a closed loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The store.
    pub store: String,
    /// What was asked, by how many.
    pub scenario: String,
    /// The first is the one to which ratios are.
    pub rows: Vec<LoadRow>,
}

/// What one contestant came to: medians of its turns, and of the ratios within a repetition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadRow {
    /// Who.
    pub name: String,
    /// Answers per second.
    pub rate: f64,
    /// To the first contestant's.
    pub rate_ratio: f64,
    /// Latencies in us that half, all but one in a hundred, and all but one in a thousand did not pass.
    pub micros: [f64; 3],
    /// The first of them to the first contestant's.
    pub p50_ratio: f64,
}

impl LoadRow {
    /// The shares of `micros`.
    pub const SHARES: [f64; 3] = [0.5, 0.99, 0.999];

    /// Of a contestant's turns, and those of the first.
    #[must_use]
    pub fn new(name: &str, turns: &Turns, first: &Turns) -> Self {
        let rate = |turn: &Turn| turn.rate;
        Self {
            name: name.to_owned(),
            rate: turns.median(rate),
            rate_ratio: turns.ratio_to(first, rate),
            micros: Self::SHARES.map(|share| turns.median(|turn| turn.micros_at(share))),
            p50_ratio: turns.ratio_to(first, |turn| turn.micros_at(0.5)),
        }
    }
}

impl Load {
    /// Of contestants and their turns, the first of whom is the one to compare with.
    #[must_use]
    pub fn new(store: &str, scenario: &str, contestants: &[(&str, Turns)]) -> Self {
        let row = |(name, turns): &(&str, Turns)| LoadRow::new(name, turns, &contestants[0].1);
        Self {
            store: store.to_owned(),
            scenario: scenario.to_owned(),
            rows: contestants.iter().map(row).collect(),
        }
    }
}

/// What a store came to in open loops.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The store.
    pub store: String,
    /// What was asked.
    pub scenario: String,
    /// By rate.
    pub steps: Vec<OpenStep>,
}

/// Contestants at a rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenStep {
    /// Requests per second that were due.
    pub offered: f64,
    /// What came of them: the rate is what was answered.
    pub rows: Vec<LoadRow>,
}

#[cfg(test)]
mod tests;
