//! The rules that explain a history, or do not.
//!
//! The store's own instants are not used: a call that was answered was decided between its start and its end, and no
//! more than that is assumed. What is reported is broken for certain.

use super::{Call, Hint, History, Loss, LossKind, Outcome, Subject, micros};
use limiter_core::{Algorithm, Quota};

/// How far the wall clock of the store may be from ours, which was read once, at an edge of a window.
const EDGE: u64 = 2_000;

/// The greatest unit that an algorithm counts in, us.
const TICK: u64 = 1_000;

impl History {
    /// Every rule that is broken, in words; `charged` is what each counted subject is charged in the store at the end.
    #[must_use]
    pub fn broken(&self, charged: &[Option<u64>]) -> Vec<String> {
        let mut broken = Vec::new();
        for (i, subject) in self.subjects.iter().enumerate() {
            let admitted = self.admitted(i);
            broken.extend(self.above_bound(i, subject, &admitted));
            broken.extend(self.above_limit_of_a_window(i, subject, &admitted));
            if !subject.is_crossing {
                // What is given back is free earlier than was said.
                broken.extend(self.crowded_turns(i, subject));
                broken.extend(self.wrong_hints(i, subject, admitted));
            }
            if let Some(charged) = charged[i] {
                broken.extend(self.miscounted(i, subject, charged));
            }
        }
        broken.extend(self.denied_for_nothing());
        broken.extend(self.torn_groups(charged));
        broken
    }

    /// Start, end and cost of the admissions of a subject.
    fn admitted(&self, subject: usize) -> Vec<(u64, u64, u64)> {
        let granted = self.calls.iter().filter(|call| call.outcome == Outcome::Granted);
        granted.filter_map(|call| Some((call.start, call.end, call.cost(subject)?))).collect()
    }

    fn losses_of(&self, subject: usize) -> impl Iterator<Item = &Loss> {
        self.losses
            .iter()
            .filter(move |loss| loss.subjects.as_ref().is_none_or(|subjects| subjects.contains(&subject)))
    }

    /// What losses admit more within an interval: of a fork, what a server that has forgotten admits in its time.
    fn lost_in(&self, subject: usize, from: u64, to: u64) -> u64 {
        let quota = &self.subjects[subject].quota;
        let losses = self.losses_of(subject).filter(|loss| loss.start <= to && from <= loss.end);
        losses
            .map(|loss| match loss.kind {
                LossKind::All => quota.capacity(),
                LossKind::Fork => most_in(quota, loss.end.min(to) - loss.start.max(from)),
            })
            .sum()
    }

    /// I1 to I5: the cost of what began and ended within an interval is at most what the quota admits in it, and one
    /// capacity more for each loss.
    fn above_bound(&self, i: usize, subject: &Subject, admitted: &[(u64, u64, u64)]) -> Option<String> {
        let mut by_end = admitted.to_vec();
        by_end.sort_unstable_by_key(|(_, end, _)| *end);
        for (from, ..) in admitted {
            let mut cost = 0;
            for (_, to, n) in by_end.iter().filter(|(start, ..)| start >= from) {
                cost += n;
                let most = most_in(&subject.quota, to - from) + self.lost_in(i, *from, *to);
                if cost > most {
                    let quota = subject.quota;
                    return Some(format!(
                        "bound: {cost} of key {i} ({quota}) within {from}..{to} us, above {most}"
                    ));
                }
            }
        }
        None
    }

    /// What calls of this outcome were told of a subject: the call, its cost, and the hint.
    fn told(&self, subject: usize, outcome: Outcome) -> impl Iterator<Item = (&Call, u64, Hint)> {
        let calls = self.calls.iter().filter(move |call| call.outcome == outcome);
        calls.filter_map(move |call| {
            let place = call.wants.iter().position(|(i, _)| *i == subject)?;
            Some((call, call.wants[place].1, *call.hints.get(place)?))
        })
    }

    /// I2: from the first turn to the last of some, as much comes back as all of them cost but one, the last.
    fn crowded_turns(&self, i: usize, subject: &Subject) -> Option<String> {
        let quota = &subject.quota;
        if quota.algorithm() != Algorithm::LeakyBucket {
            return None;
        }
        let turn = |(call, cost, hint): (&Call, u64, Hint)| {
            (cost > 0).then_some((call.start + hint.delay, call.end + hint.delay, cost))
        };
        let mut turns: Vec<(u64, u64, u64)> = self.told(i, Outcome::Granted).filter_map(turn).collect();
        turns.sort_unstable_by_key(|(_, last, _)| *last);
        // Turns that were given before a loss may come that much later.
        let depth = micros(quota.window()) * quota.capacity() / quota.limit();
        for (from, ..) in &turns {
            let (mut cost, mut dearest) = (0, 0);
            for (_, to, n) in turns.iter().filter(|(first, ..)| first >= from) {
                (cost, dearest) = (cost + n, dearest.max(*n));
                let is_whole = || self.lost_in(i, from.saturating_sub(depth), *to) == 0;
                if cost - dearest > refilled(quota, to - from) && is_whole() {
                    return Some(format!(
                        "turns: {cost} of key {i} ({quota}) have theirs within {from}..{to} us"
                    ));
                }
            }
        }
        None
    }

    /// I6: what is denied is told for how long, and as much is not granted before that.
    fn wrong_hints(&self, i: usize, subject: &Subject, mut admitted: Vec<(u64, u64, u64)>) -> Option<String> {
        let quota = &subject.quota;
        admitted.sort_unstable_by_key(|(start, ..)| *start);
        for (denial, cost, hint) in self.told(i, Outcome::Denied).filter(|(.., hint)| !hint.allowed) {
            let wait = hint.retry_after.filter(|wait| *wait > 0);
            if wait.is_none() && cost <= quota.capacity() {
                return Some(format!("hint: {denial:?}, for ever, of key {i} ({quota})"));
            }
            let wait = wait.unwrap_or(u64::MAX);
            let until = denial.start.saturating_add(wait - wait / 1_000).saturating_sub(TICK);
            let after = admitted.partition_point(|(start, ..)| *start <= denial.end);
            let before = admitted[after..].iter().take_while(|(start, ..)| *start < until);
            // A server that was replaced may go on denying, which takes no write, until its clients leave it.
            let is_whole = |end| {
                let mut losses = self.losses_of(i).filter(|loss| loss.start <= end);
                losses.all(|loss| loss.kind == LossKind::All && loss.end < denial.start)
            };
            let mut early = before.filter(|(_, end, n)| *end < until && *n >= cost);
            if let Some(grant) = early.find(|(_, end, _)| is_whole(*end)) {
                return Some(format!("hint: {denial:?}, and {grant:?} granted before, of key {i} ({quota})"));
            }
        }
        None
    }

    /// I3 and I5: at most the limit in a window that is aligned to the epoch.
    fn above_limit_of_a_window(
        &self,
        i: usize,
        subject: &Subject,
        admitted: &[(u64, u64, u64)],
    ) -> Option<String> {
        if !matches!(subject.quota.algorithm(), Algorithm::FixedWindow | Algorithm::SlidingCounter) {
            return None;
        }
        let window = micros(subject.quota.window());
        let mut by_window = std::collections::BTreeMap::new();
        for (start, end, cost) in admitted {
            let [first, last] =
                [self.clock.wall + start - EDGE, self.clock.wall + end + EDGE].map(|t| t / window);
            if first == last && self.lost_in(i, start.saturating_sub(window), end + window) == 0 {
                *by_window.entry(first).or_insert(0) += cost;
            }
        }
        let (_, cost) = by_window.into_iter().find(|(_, cost)| *cost > subject.quota.limit())?;
        Some(format!("window: {cost} of key {i} ({}) in an aligned window", subject.quota))
    }

    /// I7: all that was admitted was charged, once, and nothing else but what may have been.
    fn miscounted(&self, i: usize, subject: &Subject, charged: u64) -> Option<String> {
        let forgotten =
            self.losses_of(i).filter(|loss| loss.kind == LossKind::All).map(|loss| loss.start).max();
        let still_there = |call: &&Call| forgotten.is_none_or(|loss| call.end >= loss);
        let sum = |outcome| {
            let calls = self.calls.iter().filter(still_there).filter(|call| call.outcome == outcome);
            calls.filter_map(|call| call.cost(i)).sum::<u64>()
        };
        let (admitted, mut unknown) = (sum(Outcome::Granted), sum(Outcome::Unknown));
        if subject.is_crossing && self.calls.iter().any(|call| call.outcome == Outcome::Unknown) {
            // What could not be given back stays taken.
            unknown += sum(Outcome::Denied) + sum(Outcome::NotApplied);
        }
        let least = if self.losses_of(i).next().is_some() { 0 } else { admitted };
        if (least..=admitted + unknown).contains(&charged) {
            return None;
        }
        let quota = subject.quota;
        Some(format!("charge: {charged} of key {i} ({quota}); admitted {admitted}, unknown {unknown}"))
    }

    /// A denial of what never comes back needs as much to have been taken before it ended.
    fn denied_for_nothing(&self) -> Option<String> {
        let mut takings: Vec<&Call> = self.calls.iter().filter(|call| call.may_have_taken()).collect();
        takings.sort_unstable_by_key(|call| call.start);
        let mut denials: Vec<&Call> =
            self.calls.iter().filter(|call| call.outcome == Outcome::Denied).collect();
        denials.sort_unstable_by_key(|call| call.end);
        let mut taken = vec![0; self.subjects.len()];
        let mut takings = takings.into_iter().peekable();
        for denial in denials {
            while let Some(call) = takings.next_if(|call| call.start <= denial.end) {
                call.wants.iter().for_each(|(i, cost)| taken[*i] += cost);
            }
            let explains = |(i, cost): &(usize, u64)| {
                let Subject { quota, is_counted, is_crossing, .. } = &self.subjects[*i];
                !is_counted || *is_crossing || taken[*i] + cost > quota.capacity()
            };
            if !denial.wants.iter().any(explains) {
                return Some(format!("denial: {denial:?}, for nothing"));
            }
        }
        None
    }

    /// I8: keys that are only asked for together have lost the same.
    fn torn_groups(&self, charged: &[Option<u64>]) -> Option<String> {
        let mut lost = std::collections::BTreeMap::new();
        for (i, subject) in self.subjects.iter().enumerate() {
            let (Some(group), Some(charged)) = (subject.group, charged[i]) else { continue };
            let (first, all) = *lost.entry(group).or_insert((i, charged));
            if all != charged {
                return Some(format!("group: key {first} lost {all}, key {i} of its group {charged}"));
            }
        }
        None
    }
}

/// What comes back to a bucket within so many us of this process's clock, both ends included.
fn refilled(quota: &Quota, span: u64) -> u64 {
    let refilled =
        u128::from(quota.limit()) * u128::from(stretched(span)) / u128::from(micros(quota.window()));
    u64::try_from(refilled).expect("a rate that fits")
}

/// The store's clock may run faster by thousandths, and its instants are whole us.
fn stretched(span: u64) -> u64 {
    span + span / 1_000 + 1
}

/// The most that a quota admits within so many us of this process's clock, both ends included.
fn most_in(quota: &Quota, span: u64) -> u64 {
    let (limit, window) = (quota.limit(), micros(quota.window()));
    let windows = stretched(span) / window;
    match quota.algorithm() {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => quota.capacity() + refilled(quota, span),
        Algorithm::SlidingLog => limit * (windows + 1),
        Algorithm::SlidingCounter if windows == 0 => 2 * limit - 1,
        Algorithm::FixedWindow | Algorithm::SlidingCounter => limit * (stretched(span).div_ceil(window) + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Clock;

    fn subject(text: &str, is_counted: bool, group: Option<usize>) -> Subject {
        let quota = text.parse().expect("a quota that is accepted");
        Subject { quota, is_counted, group, is_crossing: false }
    }

    fn history(subjects: Vec<Subject>, calls: Vec<Call>) -> History {
        // The clock began at the edge of a window of any test.
        let clock = Clock { start: 0, wall: 1_795_000_000_000_000 };
        History { clock, subjects, calls, losses: Vec::new() }
    }

    fn call(subject: usize, cost: u64, start: u64, end: u64, outcome: Outcome) -> Call {
        Call { wants: vec![(subject, cost)], start, end, outcome, hints: Vec::new() }
    }

    /// As many calls of one permit, each `every` us later and half as long under way.
    fn granted(count: u64, every: u64) -> Vec<Call> {
        (0..count).map(|i| call(0, 1, i * every, i * every + every / 2, Outcome::Granted)).collect()
    }

    #[track_caller]
    fn finds(history: &History, charged: &[Option<u64>], rule: &str) {
        let broken = history.broken(charged);
        assert!(broken.len() == 1 && broken[0].starts_with(rule), "{broken:?} is not {rule}");
    }

    #[track_caller]
    fn is_clean(history: &History, charged: &[Option<u64>]) {
        let broken = history.broken(charged);
        assert!(broken.is_empty(), "{broken:?}");
    }

    #[test]
    fn one_admission_too_many_is_found() {
        for algorithm in Algorithm::ALL {
            let subjects = || vec![subject(&format!("10/hour {algorithm}"), false, None)];
            // A fixed window and a sliding counter may admit twice the limit around an edge, and not in a window.
            is_clean(&history(subjects(), granted(10, 10_000)), &[None]);
            let broken = history(subjects(), granted(11, 10_000)).broken(&[None]);
            let is_window = matches!(algorithm, Algorithm::FixedWindow | Algorithm::SlidingCounter);
            let rule = if is_window { "window" } else { "bound" };
            assert!(broken.len() == 1 && broken[0].starts_with(rule), "{algorithm}: {broken:?}");
        }
    }

    #[test]
    fn an_admission_too_many_is_found_also_across_the_edge_of_a_window() {
        for (algorithm, most) in [(Algorithm::FixedWindow, 20), (Algorithm::SlidingCounter, 19)] {
            // All within the edge's margin.
            let subjects = || vec![subject(&format!("10/s {algorithm}"), false, None)];
            is_clean(&history(subjects(), granted(most, 100)), &[None]);
            finds(&history(subjects(), granted(most + 1, 100)), &[None], "bound");
        }
    }

    #[test]
    fn what_a_bucket_refills_is_no_admission_too_many() {
        for algorithm in [Algorithm::TokenBucket, Algorithm::LeakyBucket] {
            let subjects = || vec![subject(&format!("10/s burst 3 {algorithm}"), false, None)];
            is_clean(&history(subjects(), granted(40, 95_000)), &[None]);
            finds(&history(subjects(), granted(40, 90_000)), &[None], "bound");
        }
    }

    #[test]
    fn what_may_have_been_later_is_no_admission_too_many() {
        let subjects = vec![subject("10/s sliding-log", false, None)];
        let mut calls = granted(10, 1_000);
        calls.push(call(0, 1, 9_900, 1_100_000, Outcome::Granted));
        is_clean(&history(subjects, calls), &[None]);
    }

    #[test]
    fn a_loss_admits_one_capacity_more_and_no_other() {
        let subjects = || vec![subject("10/hour sliding-log", false, None)];
        let lost = |kind, end, count| {
            let losses = vec![Loss { start: 96_000, end, kind, subjects: None }];
            History { losses, ..history(subjects(), granted(count, 10_000)) }
        };
        for kind in [LossKind::All, LossKind::Fork] {
            is_clean(&lost(kind, 99_000, 20), &[None]);
            finds(&lost(kind, 99_000, 21), &[None], "bound");
        }
        let other = Loss { start: 96_000, end: 99_000, kind: LossKind::All, subjects: Some(vec![1]) };
        let other = History { losses: vec![other], ..history(subjects(), granted(11, 10_000)) };
        finds(&other, &[None], "bound");
    }

    #[test]
    fn a_charge_that_is_twice_or_missing_is_found() {
        let subjects = || vec![subject("10/day", true, None)];
        let known = history(subjects(), granted(5, 1_000));
        is_clean(&known, &[Some(5)]);
        finds(&known, &[Some(6)], "charge");
        finds(&known, &[Some(4)], "charge");
        let mut calls = granted(5, 1_000);
        calls.push(call(0, 2, 6_000, 6_100, Outcome::Unknown));
        calls.push(call(0, 1, 7_000, 7_100, Outcome::NotApplied));
        let unknown = history(subjects(), calls);
        is_clean(&unknown, &[Some(5)]);
        is_clean(&unknown, &[Some(7)]);
        finds(&unknown, &[Some(8)], "charge");
    }

    #[test]
    fn what_was_charged_before_a_loss_is_not_asked_for() {
        let loss = Loss { start: 3_900, end: 3_950, kind: LossKind::All, subjects: None };
        let lost =
            History { losses: vec![loss], ..history(vec![subject("10/day", true, None)], granted(5, 1_000)) };
        is_clean(&lost, &[Some(1)]);
        finds(&lost, &[Some(2)], "charge");
    }

    #[test]
    fn a_denial_for_nothing_is_found() {
        let subjects = || vec![subject("10/day", true, None)];
        let mut calls = granted(5, 1_000);
        calls.push(call(0, 6, 6_000, 6_100, Outcome::Denied));
        is_clean(&history(subjects(), calls.clone()), &[Some(5)]);
        calls.push(call(0, 5, 7_000, 7_100, Outcome::Denied));
        finds(&history(subjects(), calls), &[Some(5)], "denial");
    }

    #[test]
    fn turns_that_are_too_close_are_found() {
        // One permit takes 10 ms; its turn comes so long after it was granted.
        let turns = |delays: &[u64]| {
            let subjects = vec![subject("10/100ms leaky-bucket", false, None)];
            let granted = delays.iter().zip(0..).map(|(delay, i)| Call {
                hints: vec![Hint { allowed: true, delay: *delay, retry_after: Some(0) }],
                ..call(0, 1, i * 100, i * 100 + 50, Outcome::Granted)
            });
            history(subjects, granted.collect())
        };
        is_clean(&turns(&[0, 9_900, 19_800, 29_700]), &[None]);
        finds(&turns(&[0, 9_900, 9_900, 29_700]), &[None], "turns");
        finds(&turns(&[0, 0]), &[None], "turns");
        let loss = Loss { start: 60, end: 90, kind: LossKind::All, subjects: None };
        is_clean(&History { losses: vec![loss], ..turns(&[0, 0]) }, &[None]);
    }

    #[test]
    fn hints_that_do_not_hold_are_found() {
        let after_denial = |retry_after, cost, start| {
            let denial = Call {
                hints: vec![Hint { allowed: false, delay: 0, retry_after }],
                ..call(0, 2, 1_000, 1_100, Outcome::Denied)
            };
            let grant = call(0, cost, start, start + 100, Outcome::Granted);
            history(vec![subject("5/100ms", false, None)], vec![denial, grant])
        };
        is_clean(&after_denial(Some(20_000), 2, 21_000), &[None]);
        finds(&after_denial(Some(20_000), 2, 15_000), &[None], "hint");
        finds(&after_denial(Some(20_000), 3, 15_000), &[None], "hint");
        // Less may be there before, and what was asked before may have been granted before.
        is_clean(&after_denial(Some(20_000), 1, 15_000), &[None]);
        is_clean(&after_denial(Some(20_000), 2, 1_050), &[None]);
        finds(&after_denial(None, 2, 90_000), &[None], "hint");
        finds(&after_denial(Some(0), 2, 90_000), &[None], "hint");
        let fork = Loss { start: 100, end: 200, kind: LossKind::Fork, subjects: None };
        is_clean(&History { losses: vec![fork], ..after_denial(Some(20_000), 2, 15_000) }, &[None]);
        let loss = Loss { start: 2_000, end: 3_000, kind: LossKind::All, subjects: None };
        is_clean(&History { losses: vec![loss], ..after_denial(Some(20_000), 2, 15_000) }, &[None]);
    }

    #[test]
    fn a_group_half_taken_is_found() {
        let subjects =
            || vec![subject("10/day", true, Some(0)), subject("10/day sliding-log", true, Some(0))];
        let both =
            |outcome| Call { wants: vec![(0, 2), (1, 2)], hints: Vec::new(), ..call(0, 0, 0, 10, outcome) };
        let unknown = history(subjects(), vec![both(Outcome::Unknown)]);
        is_clean(&unknown, &[Some(0), Some(0)]);
        is_clean(&unknown, &[Some(2), Some(2)]);
        finds(&unknown, &[Some(2), Some(0)], "group");
    }
}
