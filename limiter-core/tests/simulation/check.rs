//! What must hold of every history.

use crate::bounds;
use crate::history::{Event, Id, Record, Violation, micros};
use crate::plan::Plan;
use limiter_core::{Algorithm, Check, Decision, Effect, OnOutage, Origin, Quota, Timestamp, Verdict};
use limiter_testkit::Reference;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

/// Everything that is wrong.
pub(crate) fn check(plan: &Plan, record: &Record) -> Vec<Violation> {
    let mut checker = Checker { plan, record, decided: HashMap::new(), wrong: Vec::new() };
    checker.store();
    checker.accounts();
    checker.answers();
    checker.remembered();
    checker.degraded();
    bounds::check(plan, record, &mut |invariant, what| checker.wrong.push(Violation { invariant, what }));
    checker.wrong
}

/// What the store decided on a caller's request.
pub(crate) struct Decided {
    when: u64,
    at: Timestamp,
    verdict: Verdict,
    /// What the store held right after; of denials alone.
    held: Option<Reference>,
}

struct Checker<'r> {
    plan: &'r Plan,
    record: &'r Record,
    decided: HashMap<Id, Vec<Decided>>,
    wrong: Vec<Violation>,
}

impl Checker<'_> {
    fn wrong(&mut self, invariant: &'static str, what: String) {
        self.wrong.push(Violation { invariant, what });
    }

    /// Decision by decision, the store did what the reference does at the same instants.
    fn store(&mut self) {
        let record = self.record;
        let answered_from_memory = record.events.iter().any(|(_, event)| match event {
            Event::Answered { verdict, .. } => is_all(verdict, Origin::RememberedDenial),
            _ => false,
        });
        let mut reference = Reference::new();
        let keys: Vec<_> = self.plan.keys.iter().map(|key| key.key.clone()).collect();
        for (when, event) in &record.events {
            match event {
                Event::Decided { id, probed, at, verdict } => {
                    let checks = &record.asked[*id].checks;
                    let expected = match probed {
                        Some(number) => {
                            reference.decide(&[Check { cost: 0, ..checks[*number].clone() }], *at)
                        }
                        None => reference.decide(checks, *at),
                    };
                    if verdict.decisions() != expected {
                        let what = format!("request {id} at {at:?}: {verdict:?} and not {expected:?}");
                        self.wrong("reference", what);
                    }
                    if probed.is_none() {
                        let is_needed = answered_from_memory && !verdict.allowed();
                        let held = is_needed.then(|| reference.clone());
                        let decided = Decided { when: *when, at: *at, verdict: verdict.clone(), held };
                        self.decided.entry(*id).or_default().push(decided);
                    }
                }
                Event::Restarted => reference = Reference::new(),
                Event::ResetDone => reference.reset(&keys),
                _ => {}
            }
        }
    }

    /// Each request is charged once at the most, and what was said not to be recorded never was.
    fn accounts(&mut self) {
        for (id, asked) in self.record.asked.iter().enumerate() {
            let times = self.decided.get(&id).map_or(0, Vec::len);
            if times > 1 && asked.checks.iter().any(|check| check.cost > 0) {
                self.wrong("I7", format!("request {id} was decided {times} times"));
            }
        }
        for (_, event) in &self.record.events {
            if let Event::Failed { id, effect: Effect::NotApplied, kind } = event
                && self.decided.contains_key(id)
            {
                self.wrong(
                    "I7",
                    format!("request {id} was recorded, though it is said that it was not: {kind}"),
                );
            }
        }
    }

    /// Everyone is told in time, by whom, and if by the store what it decided on that request meanwhile.
    fn answers(&mut self) {
        let record = self.record;
        let mut ends = vec![0; record.asked.len()];
        let mut has_failed = vec![false; record.asked.len()];
        for (now, event) in &record.events {
            match event {
                Event::Failed { id, .. } => has_failed[*id] = true,
                Event::Dropped { id } => ends[*id] += 1,
                Event::Answered { id, verdict } => {
                    ends[*id] += 1;
                    let asked = &record.asked[*id];
                    let took = now - asked.when;
                    if took > micros(self.plan.layers.decision) {
                        self.wrong("I11", format!("request {id} took {took} us"));
                    }
                    if verdict.decisions().len() != asked.checks.len() {
                        self.wrong("answers", format!("request {id} has too few decisions"));
                    }
                    if has_failed[*id] != is_all(verdict, Origin::Degraded) {
                        self.wrong("answers", format!("request {id} does not say by whom it was decided"));
                    }
                    if is_all(verdict, Origin::Store) {
                        let is_told = |decided: &Decided| {
                            decided.verdict == *verdict && (asked.when..=*now).contains(&decided.when)
                        };
                        if !self.decided.get(id).is_some_and(|decided| decided.iter().any(is_told)) {
                            self.wrong("answers", format!("request {id} was told what the store never said"));
                        }
                    }
                }
                _ => {}
            }
        }
        for (id, _) in ends.iter().enumerate().filter(|(_, ends)| **ends != 1) {
            self.wrong("I11", format!("request {id} has no end, or several"));
        }
    }

    /// A remembered denial is what the store still said if nobody had consumed since, and no older than `hold`. It is not
    /// from before a reset here, nor before a grant here of the same keys.
    fn remembered(&mut self) {
        let record = self.record;
        // A call looks for what is remembered when it is asked, also if it then waits for other answers.
        let recalled = record.events.iter().filter_map(|(_, event)| match event {
            Event::Answered { id, verdict } if is_all(verdict, Origin::RememberedDenial) => {
                Some((*id, verdict))
            }
            _ => None,
        });
        let recalled: HashMap<Id, &Verdict> = recalled.collect();
        // Denials by the store that an instance may remember.
        let mut known: Vec<Vec<Id>> = vec![Vec::new(); self.plan.skews.len()];
        // Beginnings and ends of resets so far, by instance, and as many as there were when a request was asked.
        let mut resets = vec![0; self.plan.skews.len()];
        let mut resets_before = vec![0; record.asked.len()];
        for (_, event) in &record.events {
            match event {
                Event::ResetAsked { instance } | Event::ResetEnded { instance, .. } => {
                    resets[*instance] += 1;
                    known[*instance].clear();
                }
                Event::Asked { id, instance, .. } => {
                    resets_before[*id] = resets[*instance];
                    let Some(verdict) = recalled.get(id) else { continue };
                    if !known[*instance].iter().rev().any(|denied| self.is_remembered(*denied, *id, verdict))
                    {
                        self.wrong(
                            "remembered",
                            format!("request {id} has a denial from nowhere: {verdict:?}"),
                        );
                    }
                }
                // A grant of the degraded mode takes nothing from what the store holds, and neither does a peek.
                Event::Answered { id, verdict } if verdict.allowed() && is_all(verdict, Origin::Store) => {
                    let asked = &record.asked[*id];
                    if asked.checks.iter().any(|check| check.cost > 0) {
                        known[asked.instance]
                            .retain(|denied| !is_of_same_keys(&record.asked[*denied].checks, &asked.checks));
                    }
                }
                Event::Answered { id, verdict } if is_all(verdict, Origin::Store) => {
                    let instance = record.asked[*id].instance;
                    // A denial from before a reset is not news.
                    if resets_before[*id] == resets[instance] {
                        known[instance].push(*id);
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether that denial makes this answer.
    fn is_remembered(&self, denied: Id, id: Id, verdict: &Verdict) -> bool {
        let (before, asked) = (&self.record.asked[denied], &self.record.asked[id]);
        let is_same = |(one, other): (&Check, &Check)| one.quota == other.quota;
        if !is_of_same_keys(&before.checks, &asked.checks)
            || !before.checks.iter().zip(&asked.checks).all(is_same)
        {
            return false;
        }
        let Some(since) = asked.at.as_micros().checked_sub(before.at.as_micros()) else { return false };
        if since >= micros(self.plan.layers.hold) {
            return false;
        }
        let since = Duration::from_micros(since);
        let says = |decided: &Decided| {
            let Some(held) = &decided.held else { return false };
            let expected = held.clone().decide(&asked.checks, decided.at + since);
            same_but_origin(verdict, &expected)
        };
        self.decided.get(&denied).is_some_and(|decided| decided.iter().any(says))
    }

    /// Without the store, each instance decides as its policy says: with local limits, by its share of the quotas, of which
    /// all is taken that the store has granted through it.
    fn degraded(&mut self) {
        let record = self.record;
        let keys: Vec<_> = self.plan.keys.iter().map(|key| key.key.clone()).collect();
        let mut local = vec![Reference::new(); self.plan.skews.len()];
        for (_, event) in &record.events {
            match event {
                Event::ResetAsked { instance } => local[*instance].reset(&keys),
                Event::Answered { id, verdict } if is_all(verdict, Origin::Degraded) => {
                    let asked = &record.asked[*id];
                    let is_right = match self.plan.layers.on_outage {
                        OnOutage::Allow => verdict.allowed(),
                        OnOutage::Deny => {
                            let each = verdict.decisions().iter().zip(&asked.checks);
                            each.into_iter().all(|(decision, check)| decision.allowed == (check.cost == 0))
                        }
                        OnOutage::Local { instances } => {
                            let checks: Vec<Check> =
                                asked.checks.iter().map(|check| shared(check, instances)).collect();
                            let mut expected = local[asked.instance].decide(&checks, asked.at);
                            for (decision, check) in expected.iter_mut().zip(&asked.checks) {
                                // Above the share alone: it can be had once the store is back.
                                let is_never = !decision.allowed && decision.retry_after.is_none();
                                if is_never && check.cost <= check.quota.capacity() {
                                    decision.retry_after = Some(Duration::from_secs(1));
                                }
                            }
                            same_but_origin(verdict, &expected)
                        }
                    };
                    if !is_right {
                        self.wrong("degraded", format!("request {id} was answered {verdict:?}"));
                    }
                }
                Event::Answered { id, verdict } if verdict.allowed() && is_all(verdict, Origin::Store) => {
                    let OnOutage::Local { instances } = self.plan.layers.on_outage else { continue };
                    let asked = &record.asked[*id];
                    for check in &asked.checks {
                        let check = shared(check, instances);
                        let cost = check.cost.min(check.quota.capacity());
                        let mut take = |cost| {
                            let check = Check { cost, ..check.clone() };
                            local[asked.instance].decide(&[check], asked.at)[0]
                        };
                        let taken = take(cost);
                        if !taken.allowed {
                            let _what_is_left = take(taken.remaining);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

pub(crate) fn is_all(verdict: &Verdict, origin: Origin) -> bool {
    verdict.decisions().iter().all(|decision| decision.origin == origin)
}

fn same_but_origin(verdict: &Verdict, expected: &[Decision]) -> bool {
    let by_store = |decision: &Decision| {
        let mut decision = *decision;
        decision.origin = Origin::Store;
        decision
    };
    verdict.decisions().iter().map(by_store).eq(expected.iter().copied())
}

fn is_of_same_keys(one: &[Check], other: &[Check]) -> bool {
    one.iter().map(|check| &check.key).eq(other.iter().map(|check| &check.key))
}

fn shared(check: &Check, instances: NonZeroU32) -> Check {
    Check { quota: share(&check.quota, instances), ..check.clone() }
}

/// The part of a quota that each of so many instances has for itself.
pub(crate) fn share(quota: &Quota, instances: NonZeroU32) -> Quota {
    let n = u64::from(instances.get());
    let builder = match quota.algorithm() {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => {
            Quota::new(quota.limit(), quota.window() * instances.get()).burst(quota.capacity().div_ceil(n))
        }
        _ => Quota::new(quota.limit().div_ceil(n), quota.window()),
    };
    builder.algorithm(quota.algorithm()).build().unwrap()
}
