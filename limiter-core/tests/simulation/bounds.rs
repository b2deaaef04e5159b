//! The invariants of what was admitted, judged from the admissions alone: no state is kept.

use crate::check::is_all;
use crate::history::{Event, Record, START};
use crate::plan::{Key, Plan};
use limiter_core::{Algorithm, OnOutage, Origin, Quota};

/// Cost admitted at an instant, in us.
type Admitted = (i128, i128);

pub(crate) fn check(plan: &Plan, record: &Record, wrong: &mut dyn FnMut(&'static str, String)) {
    for key in &plan.keys {
        for admitted in spells(key, record) {
            by_store(&admitted.0, &admitted.1, wrong);
        }
        if let (OnOutage::Local { instances }, [(_, quota)]) = (plan.layers.on_outage, &key.quotas[..]) {
            together(plan, record, key, quota, i128::from(instances.get()), wrong);
        }
    }
}

/// What the store admitted of a key between two changes of anything, by its own clock.
fn spells(key: &Key, record: &Record) -> Vec<(Quota, Vec<Admitted>)> {
    let mut spells: Vec<(Quota, Vec<Admitted>)> = Vec::new();
    let mut is_new = true;
    for (_, event) in &record.events {
        match event {
            Event::Restarted | Event::Stepped(_) | Event::ResetDone => is_new = true,
            Event::Decided { id, probed: None, at, verdict } if verdict.allowed() => {
                let checks = &record.asked[*id].checks;
                let Some(check) = checks.iter().find(|check| check.key == key.key) else { continue };
                let admitted = (i128::from(at.as_micros()), i128::from(check.cost));
                match spells.last_mut() {
                    Some((quota, spell)) if !is_new && *quota == check.quota => spell.push(admitted),
                    _ => spells.push((check.quota, vec![admitted])),
                }
                is_new = false;
            }
            _ => {}
        }
    }
    spells
}

/// I1 to I5.
fn by_store(quota: &Quota, admitted: &[Admitted], wrong: &mut dyn FnMut(&'static str, String)) {
    let (limit, capacity) = (i128::from(quota.limit()), i128::from(quota.capacity()));
    let window = i128::try_from(quota.window().as_micros()).unwrap();
    let within = |from: i128, to: i128| -> i128 {
        admitted.iter().filter(|(at, _)| (from..=to).contains(at)).map(|(_, cost)| cost).sum()
    };
    let start_of = |at: i128| at - at.rem_euclid(window);
    for (i, (at, _)) in admitted.iter().enumerate() {
        let (invariant, sum, most) = match quota.algorithm() {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => {
                let mut sum = 0;
                let is_kept = admitted[i..].iter().all(|(last, cost)| {
                    sum += cost;
                    sum * window <= capacity * window + limit * (last - at)
                });
                ("I1", i128::from(!is_kept), 0)
            }
            Algorithm::FixedWindow => ("I3", within(start_of(*at), start_of(*at) + window - 1), limit),
            Algorithm::SlidingLog => ("I4", within(at - window + 1, *at), limit),
            Algorithm::SlidingCounter => ("I5", within(start_of(*at), start_of(*at) + window - 1), limit),
        };
        if sum > most {
            wrong(invariant, format!("{sum} of {most} around {at} under {quota}: {admitted:?}"));
        }
    }
}

/// I10, of buckets: what the store and all the instances that were ever without it admitted together, over any interval
/// of the run. `n` is what each of them takes for the number of instances.
fn together(
    plan: &Plan,
    record: &Record,
    key: &Key,
    quota: &Quota,
    n: i128,
    wrong: &mut dyn FnMut(&'static str, String),
) {
    if !matches!(quota.algorithm(), Algorithm::TokenBucket | Algorithm::LeakyBucket) {
        return;
    }
    let (limit, capacity) = (i128::from(quota.limit()), i128::from(quota.capacity()));
    let window = i128::try_from(quota.window().as_micros()).unwrap();
    let instances = plan.skews.len();
    let (mut admitted, mut renewed, mut renewed_locally) = (Vec::new(), Vec::new(), Vec::new());
    let mut away: Vec<Option<(i128, i128)>> = vec![None; instances];
    for (when, event) in &record.events {
        let when = i128::from(*when);
        match event {
            Event::Restarted | Event::Stepped(_) | Event::ResetDone => renewed.push(when),
            Event::ResetAsked { instance } => renewed_locally.push((*instance, when)),
            Event::Decided { id, probed: None, verdict, .. } if verdict.allowed() => {
                let checks = &record.asked[*id].checks;
                let cost =
                    checks.iter().find(|check| check.key == key.key).map(|check| i128::from(check.cost));
                admitted.extend(cost.map(|cost| (when, cost)));
            }
            Event::Answered { id, verdict } if is_all(verdict, Origin::Degraded) => {
                let asked = &record.asked[*id];
                let skewed = START + plan.skews[asked.instance];
                let at = i128::from(asked.at.as_micros() - skewed);
                let (first, last) = away[asked.instance].unwrap_or((at, at));
                away[asked.instance] = Some((first.min(at), last.max(at)));
                let check = asked.checks.iter().find(|check| check.key == key.key && verdict.allowed());
                admitted.extend(check.map(|check| (at, i128::from(check.cost))));
            }
            _ => {}
        }
    }
    admitted.retain(|(_, cost)| *cost > 0);
    admitted.sort_unstable();
    for (i, (from, _)) in admitted.iter().enumerate() {
        let mut sum = 0;
        for (to, cost) in &admitted[i..] {
            sum += cost;
            // All in parts of a permit, `1 / (W * N)`. A call that waited is decided at the instant at which it was asked.
            let renewals = renewed.iter().filter(|at| (from..=to).contains(at)).count();
            let mut bound =
                i128::try_from(1 + renewals).unwrap() * capacity * window * n + limit * (to - from) * n;
            for (instance, (first, last)) in
                away.iter().enumerate().filter_map(|(i, away)| Some((i, (*away)?)))
            {
                let resets = renewed_locally.iter().filter(|(of, _)| *of == instance).count();
                let share = (capacity + n - 1) / n * i128::try_from(1 + resets).unwrap();
                let overlap = (last.min(*to) - first.max(*from)).max(0);
                bound += share * window * n + limit * overlap;
            }
            if sum * window * n > bound {
                let what =
                    format!("{sum} admitted from {from} to {to}, of {bound} / {} under {quota}", window * n);
                wrong("I10", what);
                return;
            }
        }
    }
}
