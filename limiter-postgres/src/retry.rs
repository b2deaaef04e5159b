//! What a lock or a deadlock has stopped goes again, once, one by one: only what is stuck fails.

use crate::backend::Inner;
use crate::error::unanswered;
use crate::server::{Failure, Patience};
use futures_util::future::join_all;
use limiter_core::batch::Batch;
use limiter_core::{Request, Verdict};
use std::collections::BTreeMap;

/// Each entry in a trip of its own: those that share a key in order, others at the same time.
pub(crate) async fn one_by_one(
    inner: &Inner,
    requests: &[&Request],
    patience: Patience,
) -> Vec<Result<Verdict, Failure>> {
    let mut answers: Vec<_> = requests.iter().map(|_| Err(unanswered().into())).collect();
    let groups = groups(requests).into_iter().map(|entries| async move {
        let mut answered = Vec::new();
        for places in entries {
            let alone: Vec<&Request> = places.iter().map(|place| requests[*place]).collect();
            answered.push((inner.attempt(&alone, patience, false).await, places));
        }
        answered
    });
    for (group, places) in join_all(groups).await.into_iter().flatten() {
        for (answer, place) in group.into_iter().zip(places) {
            answers[place] = answer;
        }
    }
    answers
}

/// The requests' places by entry, and the entries by what keys they share, directly or by others.
fn groups(requests: &[&Request]) -> Vec<Vec<Vec<usize>>> {
    let batch = Batch::new(requests.to_vec());
    // Each key's group is that of the key it points to.
    let mut joined: Vec<usize> = (0..batch.keys().len()).collect();
    for entry in batch.entries() {
        let roots: Vec<usize> = entry.places.iter().map(|place| root(&joined, *place)).collect();
        if let [first, others @ ..] = &roots[..] {
            others.iter().for_each(|other| joined[*other] = *first);
        }
    }
    let mut groups: BTreeMap<usize, Vec<(usize, Vec<usize>)>> = BTreeMap::new();
    let mut group_of = Vec::with_capacity(requests.len());
    for (i, entry) in batch.entries().enumerate() {
        let group = entry.places.first().map_or(0, |place| root(&joined, *place));
        groups.entry(group).or_default().push((i, Vec::new()));
        group_of.push(group);
    }
    for (place, entry) in batch.entry_of().iter().enumerate() {
        let group = groups.entry(group_of[*entry]).or_default();
        if let Some((_, places)) = group.iter_mut().find(|(i, _)| i == entry) {
            places.push(place);
        }
    }
    groups.into_values().map(|group| group.into_iter().map(|(_, places)| places).collect()).collect()
}

fn root(joined: &[usize], mut key: usize) -> usize {
    while joined[key] != key {
        key = joined[key];
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use limiter_core::{Algorithm, Check, Keyspace, Quota};

    fn request(keys: &[&str], cost: u64) -> Request {
        let keyspace = Keyspace::new("n", "r", Algorithm::TokenBucket).unwrap();
        let quota = Quota::per_second(9).build().unwrap();
        let check = |key: &&str| Check { key: keyspace.key(key.as_bytes()), quota, cost };
        Request::new(keys.iter().map(check)).unwrap()
    }

    #[test]
    fn keys_that_share_a_request_go_in_order_and_others_by_themselves() {
        let requests = [
            request(&["a"], 1),
            request(&["b"], 1),
            request(&["a"], 1),
            request(&["a"], 2),
            request(&["c", "d"], 1),
            request(&["d", "e"], 1),
            request(&["e"], 1),
        ];
        let mut groups = groups(&requests.iter().collect::<Vec<_>>());
        groups.sort();
        assert_eq!(groups, [vec![vec![0, 2], vec![3]], vec![vec![1]], vec![vec![4], vec![5], vec![6]]]);
    }
}
