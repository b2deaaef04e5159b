//! Counters of decisions and errors, by rule.

use super::handles::counter;
use super::notice::{DROPPED, KINDS};
use crate::decision::{Decision, Origin, Verdict};
use crate::key::Keyspace;
use crate::layer::Answer;
use crate::metric;
use crate::request::Request;
use ::metrics::Counter;
use std::array::from_fn;
use std::sync::OnceLock;

/// Each rule's counters, found by its keyspace's number: as many as there are configured rules and algorithms.
pub(super) struct Rules {
    store: &'static str,
    /// The first has places for the first 32 keyspaces of the process, each of the others for as many as all before.
    blocks: [OnceLock<Block>; BLOCKS],
}

type Block = Box<[OnceLock<Box<Counters>>]>;

/// All series of one rule, so that each is there, at zero, before it is needed: an alert sees the first error too.
struct Counters {
    decided: [[Counter; 3]; 3],
    /// By the order of [`KINDS`].
    failed: [Counter; KINDS.len()],
}

const FIRST_BLOCK: usize = 32;

/// Room for 2^31 keyspaces.
const BLOCKS: usize = 26;

const ORIGINS: [&str; 3] = ["store", "remembered", "degraded"];
const OUTCOMES: [&str; 3] = ["allowed", "denied", "withheld"];

impl Rules {
    pub(super) fn new(store: &'static str) -> Self {
        Self { store, blocks: from_fn(|_| OnceLock::new()) }
    }

    #[inline]
    pub(super) fn answered(&self, request: &Request, answer: &Answer) {
        match answer {
            Ok(verdict) => self.decided(request, verdict),
            Err(error) => self.failed(request, error.kind().index()),
        }
    }

    pub(super) fn dropped(&self, request: &Request) {
        self.failed(request, DROPPED);
    }

    #[inline]
    fn decided(&self, request: &Request, verdict: &Verdict) {
        let granted = verdict.allowed();
        for (check, decision) in request.checks().iter().zip(verdict.decisions()) {
            if check.cost == 0 {
                continue;
            }
            let outcome = match (decision.allowed, granted) {
                (true, true) => 0,
                (false, _) => 1,
                (true, false) => 2,
            };
            if let Some(rule) = self.of(check.key.keyspace()) {
                rule.decided[origin(decision)][outcome].increment(1);
            }
        }
    }

    fn failed(&self, request: &Request, kind: usize) {
        for rule in request.checks().iter().filter_map(|check| self.of(check.key.keyspace())) {
            rule.failed[kind].increment(1);
        }
    }

    #[inline]
    fn of(&self, keyspace: Keyspace) -> Option<&Counters> {
        let place = keyspace.number() + FIRST_BLOCK;
        let block = (place.ilog2() - FIRST_BLOCK.ilog2()) as usize;
        let length = FIRST_BLOCK << block;
        let places = self.blocks.get(block)?;
        let places = places.get_or_init(|| (0..length).map(|_| OnceLock::new()).collect());
        let counters = places.get(place - length)?;
        Some(counters.get_or_init(|| Box::new(Counters::new(keyspace.rule(), self.store))))
    }
}

impl Counters {
    fn new(rule: &'static str, store: &'static str) -> Self {
        let decided = |origin, outcome| counter(&metric::DECISIONS, &[rule, store, origin, outcome]);
        Self {
            decided: ORIGINS.map(|origin| OUTCOMES.map(|outcome| decided(origin, outcome))),
            failed: KINDS.map(|kind| counter(&metric::ERRORS, &[rule, store, kind])),
        }
    }
}

/// The place in [`ORIGINS`].
#[inline]
fn origin(decision: &Decision) -> usize {
    match decision.origin {
        Origin::Store => 0,
        Origin::RememberedDenial => 1,
        Origin::Degraded => 2,
    }
}

/// Whether this process answered alone.
#[inline]
pub(super) fn is_degraded(verdict: &Verdict) -> bool {
    verdict.decisions().iter().any(|decision| decision.origin == Origin::Degraded)
}
