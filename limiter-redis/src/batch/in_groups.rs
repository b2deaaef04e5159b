//! A batch of requests of one check, each key once, as the script in `lua/in_groups/` takes it.

use super::writer::{Quotas, Writer, cost};
use super::{Keep, Packed};
use crate::script::Needs;
use limiter_core::{Algorithm, Timestamp, batch};

/// What requests of one group have in common: all but their keys. Logs come last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    is_of_logs: bool,
    quota: usize,
    at: Option<Timestamp>,
    count: u32,
    cost: u64,
}

/// Packs a batch of which no two entries share a key.
pub(super) fn pack<'a>(batch: &batch::Batch<'a>, keep: Keep) -> Packed<'a> {
    let (mut needs, mut quotas) = (Needs::default(), Quotas::default());
    let mut entries = Vec::with_capacity(batch.entries().len());
    for (place, entry) in batch.entries().enumerate() {
        // One each.
        for check in entry.request.checks() {
            let algorithm = check.quota.algorithm();
            needs.algorithm(algorithm);
            let group = Group {
                is_of_logs: algorithm == Algorithm::SlidingLog,
                quota: quotas.number(&check.quota),
                at: entry.request.instant(),
                count: entry.count,
                cost: cost(check),
            };
            entries.push((group, place));
        }
    }
    entries.sort_unstable();
    let groups = || entries.chunk_by(|(one, _), (other, _)| one == other);
    let plain = entries.partition_point(|(group, _)| !group.is_of_logs);
    let mut argument = Writer::default();
    argument.short(plain);
    argument.short(groups().count());
    argument.keep(keep);
    for group in groups() {
        let (Group { quota, at, count, cost, .. }, _) = group[0];
        argument.short(group.len());
        argument.instant(at);
        argument.count(count);
        argument.double(cost);
        argument.quota(&quotas.all()[quota]);
    }
    let order: Vec<usize> = entries.iter().map(|(_, place)| *place).collect();
    Packed {
        script: needs.decide_in_groups(),
        // Each entry brought its own.
        keys: order.iter().map(|place| batch.keys()[*place]).collect(),
        argument: argument.packed(),
        order,
    }
}
