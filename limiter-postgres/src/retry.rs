//! What a lock or a deadlock has stopped goes again: what is not held at once, and what is by itself.

use crate::backend::Inner;
use crate::error::malformed;
use crate::keys::Keys;
use crate::server::{Argument, Call, Failure, Patience};
use futures_util::future::join_all;
use limiter_core::batch::Batch;
use limiter_core::{Request, StorageKey, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::timeout_at;

type Answer = Result<Verdict, Failure>;

/// Replaces the answers of those that were stopped.
pub(crate) async fn where_stopped(
    inner: &Inner,
    requests: &[&Request],
    patience: Patience,
    answers: &mut [Answer],
) {
    let places = stopped(answers);
    let again: Vec<&Request> = places.iter().map(|place| requests[*place]).collect();
    let batch = Batch::new(again.clone());
    if batch.entries().len() > 1
        && let Ok(held) = held(inner, batch.keys(), patience.of_all(&again)).await
    {
        let is_free =
            |place: &usize| !requests[*place].checks().iter().any(|check| held.contains(&&check.key));
        let free: Vec<usize> = places.into_iter().filter(is_free).collect();
        let trip: Vec<&Request> = free.iter().map(|place| requests[*place]).collect();
        for (place, answer) in free.into_iter().zip(inner.attempt(&trip, patience, true).await) {
            answers[place] = answer;
        }
    }
    let places = stopped(answers);
    let again: Vec<&Request> = places.iter().map(|place| requests[*place]).collect();
    for (at, answer) in one_by_one(inner, &again, patience).await {
        answers[places[at]] = answer;
    }
}

/// The places of what may succeed if it goes again.
fn stopped(answers: &[Answer]) -> Vec<usize> {
    let is_stopped = |answer: &Answer| answer.as_ref().is_err_and(|failure| failure.is_passing);
    (0..answers.len()).filter(|place| is_stopped(&answers[*place])).collect()
}

/// Those of the keys whose rows other transactions hold.
async fn held<'a>(
    inner: &Inner,
    keys: &'a [&'a StorageKey],
    patience: Patience,
) -> Result<Vec<&'a StorageKey>, Failure> {
    let call = Call {
        operation: "decide",
        text: Arc::clone(&inner.schema.held),
        arguments: vec![Argument::Keys(Keys(keys.iter().map(|key| key.to_bytes()).collect()))],
        may_go_again: true,
    };
    let row = inner.server.row(call, patience).await?;
    let places: Option<Vec<i64>> = row.try_get(0).map_err(|_| malformed())?;
    let key = |place: i64| keys.get(usize::try_from(place).ok()?.checked_sub(1)?).copied();
    Ok(places.unwrap_or_default().into_iter().filter_map(key).collect())
}

/// Each entry in a trip of its own: those that share a key in order, others at the same time, as far as there are
/// connections for those who wait. The places and the answers of those who had their turn.
async fn one_by_one(inner: &Inner, requests: &[&Request], patience: Patience) -> Vec<(usize, Answer)> {
    let groups = groups(requests).into_iter().map(|entries| async move {
        let mut answered = Vec::new();
        for places in entries {
            let alone: Vec<&Request> = places.iter().map(|place| requests[*place]).collect();
            let turn = inner.server.waiting.acquire();
            let Ok(Ok(_turn)) = timeout_at(patience.of_all(&alone).last, turn).await else { continue };
            answered.extend(places.into_iter().zip(inner.attempt(&alone, patience, false).await));
        }
        answered
    });
    join_all(groups).await.into_iter().flatten().collect()
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
