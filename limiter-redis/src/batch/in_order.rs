//! A batch of any requests, as the script in `lua/in_order/` takes it.

use super::writer::{Quotas, Writer, cost};
use super::{Keep, Packed};
use crate::script::Needs;
use limiter_core::{Algorithm, batch};

/// Packs a batch, to be taken or only answered.
pub(super) fn pack<'a>(batch: &batch::Batch<'a>, keep: Keep, is_taken: bool) -> Packed<'a> {
    let is_log = |place: &usize| batch.keys()[*place].keyspace().algorithm() == Algorithm::SlidingLog;
    let (logs, plain): (Vec<usize>, Vec<usize>) = (0..batch.keys().len()).partition(is_log);
    let order = || plain.iter().chain(&logs);
    let mut position = vec![0; batch.keys().len()];
    order().enumerate().for_each(|(i, place)| position[*place] = i + 1);
    let (mut needs, mut quotas) = (Needs::default(), Quotas::default());
    let mut requests = Writer::default();
    for entry in batch.entries() {
        if entry.places.len() != 1 || !is_taken {
            needs.all_or_nothing();
        }
        requests.instant(entry.request.instant());
        requests.count(if is_taken { entry.count } else { 0 });
        requests.short(entry.places.len());
        for (check, place) in entry.request.checks().iter().zip(entry.places) {
            needs.algorithm(check.quota.algorithm());
            requests.short(position[*place]);
            requests.short(quotas.number(&check.quota) + 1);
            requests.double(cost(check));
        }
    }
    let mut argument = Writer::default();
    argument.in_order(plain.len(), quotas.all(), batch.entries().len(), keep);
    argument.append(requests);
    Packed {
        script: needs.decide_in_order(),
        keys: order().map(|place| batch.keys()[*place]).collect(),
        argument: argument.packed(),
        order: (0..batch.entries().len()).collect(),
    }
}
