//! Requests whose keys a store cannot decide in one step: all checks are looked at together, and taken one after
//! another, in key order, if none denies. If one denies after all, what was taken is given back: the request may deny
//! too much for a moment, and never admits too much.

use crate::algorithm::Reading;
use crate::batch::Answer;
use crate::decision::{Decision, Verdict};
use crate::error::{BackendError, Effect, ErrorKind};
use crate::request::{Check, Request};
use crate::time::Timestamp;
use futures_util::future::join_all;
use std::borrow::Borrow;
use std::future::Future;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::sleep;

/// A store that decides each key by itself, as [`start`] needs it.
pub trait KeyByKey: Send + Sync + 'static {
    /// What it answers to a request of one check.
    type Answer: Borrow<Answer> + Send + Sync;

    /// The store's name, for errors.
    fn name(&self) -> &'static str;

    /// What a request of one check is answered, without taking it.
    fn look(&self, request: &Request) -> impl Future<Output = Result<Self::Answer, BackendError>> + Send;

    /// Decides a request of one check.
    fn take(&self, request: &Request) -> impl Future<Output = Result<Self::Answer, BackendError>> + Send;

    /// Gives back what was taken of a check whose request carried the instant `at`. Asked again, for a while, after an outage
    /// in which it was not applied; else it stays taken, which is stricter. It waits for its turn where others are refused.
    fn give_back(
        &self,
        check: &Check,
        at: Option<Timestamp>,
        taken: &Self::Answer,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;
}

/// How often a store is asked to take something back, and what lies between.
const GIVES: usize = 25;
const PAUSE: Duration = Duration::from_millis(10);

/// Starts deciding a request key by key, in a task of its own: a caller who goes away leaves nothing half done.
///
/// # Errors
/// The store's. `Unknown` once something was taken, though it was given back where it could be.
/// `Config`: there is no tokio runtime. `Unexpected`: it ended meanwhile.
pub fn start<S: KeyByKey>(
    store: S,
    request: &Request,
) -> impl Future<Output = Result<Verdict, BackendError>> + Send + use<S> {
    let name = store.name();
    let task = Handle::try_current().map(|runtime| {
        let request = request.clone();
        runtime.spawn(async move { take_all(&store, &request).await })
    });
    async move {
        let Ok(task) = task else {
            let message = "a running tokio runtime is needed, and there is none";
            return Err(BackendError::new(ErrorKind::Config, Effect::NotApplied, name, "decide", message));
        };
        task.await.unwrap_or_else(|_lost| {
            let message = "the task of the request ended with its runtime";
            Err(BackendError::new(ErrorKind::Unexpected, Effect::Unknown, name, "decide", message))
        })
    }
}

async fn take_all<S: KeyByKey>(store: &S, request: &Request) -> Result<Verdict, BackendError> {
    let name = store.name();
    let alone: Vec<Request> = request
        .checks()
        .iter()
        .map(|check| Request::alone(check, request.instant(), request.deadline()))
        .collect();
    let looks = join_all(alone.iter().map(|check| store.look(check))).await;
    let looks: Vec<S::Answer> = looks.into_iter().collect::<Result<_, _>>()?;
    if looks.iter().any(|look| !is_granted(look)) {
        return seen(request, &looks).map_or_else(|| report(name, request, &looks, None), Ok);
    }
    let mut order: Vec<usize> = (0..alone.len()).collect();
    order.sort_by_cached_key(|i| request.checks()[*i].key.to_bytes());
    let mut taken: Vec<(usize, S::Answer)> = Vec::with_capacity(alone.len());
    for i in order {
        match store.take(&alone[i]).await {
            Ok(answer) if is_granted(&answer) => taken.push((i, answer)),
            Ok(denied) => {
                give_all_back(store, request, &taken).await;
                return report(name, request, &looks, Some((i, denied)));
            }
            Err(error) if taken.is_empty() => return Err(error),
            Err(error) => {
                give_all_back(store, request, &taken).await;
                let message =
                    "a later key gave no answer; what was taken of others was given back where it could be";
                return Err(BackendError::new(error.kind(), Effect::Unknown, name, "decide", message)
                    .with_source(error));
            }
        }
    }
    taken.sort_unstable_by_key(|(i, _)| *i);
    let each = taken.iter().zip(request.checks());
    each.map(|((_, answer), check)| decision(name, answer, check, check.cost)).collect()
}

/// The verdict that denies by what was seen, nothing having been taken: all at the latest of the instants, and with what it
/// was made of, so that it can be remembered. `None` where that is not known, or would not deny any more.
fn seen<A: Borrow<Answer>>(request: &Request, looks: &[A]) -> Option<Verdict> {
    let now = looks.iter().map(|look| look.borrow().now).max()?;
    let moved = request.checks().iter().zip(looks).map(|(check, look)| {
        let look = look.borrow();
        let reading = look.readings.first()?;
        if look.now == now { Some(*reading) } else { reading.later(&check.quota, check.cost, now) }
    });
    let readings = moved.collect::<Option<Vec<Reading>>>()?;
    Reading::verdict(request.checks(), &readings, now).filter(|verdict| !verdict.allowed())
}

/// The verdict of a denied request: of a check that denied when it was taken, its answer then; else what was seen.
fn report<A: Borrow<Answer>>(
    name: &'static str,
    request: &Request,
    looks: &[A],
    denied: Option<(usize, A)>,
) -> Result<Verdict, BackendError> {
    let each = request.checks().iter().zip(looks).enumerate().map(|(i, (check, look))| match &denied {
        Some((denying, answer)) if *denying == i => decision(name, answer, check, check.cost),
        _ if !is_granted(look) => decision(name, look, check, check.cost),
        _ => decision(name, look, check, 0),
    });
    each.collect()
}

fn decision<A: Borrow<Answer>>(
    name: &'static str,
    answer: &A,
    check: &Check,
    cost: u64,
) -> Result<Decision, BackendError> {
    let Answer { now, readings, .. } = answer.borrow();
    let reading = readings.first();
    reading.and_then(|reading| reading.decide(&check.quota, cost, *now)).ok_or_else(|| {
        let message = "what was read is no state of the quota's algorithm";
        BackendError::new(ErrorKind::Unexpected, Effect::Unknown, name, "decide", message)
    })
}

fn is_granted<A: Borrow<Answer>>(answer: &A) -> bool {
    answer.borrow().granted > 0
}

async fn give_all_back<S: KeyByKey>(store: &S, request: &Request, taken: &[(usize, S::Answer)]) {
    let gifts = taken.iter().filter_map(|(i, answer)| {
        let check = request.checks().get(*i).filter(|check| check.cost > 0)?;
        Some(give_back(store, check, request.instant(), answer))
    });
    join_all(gifts).await;
}

async fn give_back<S: KeyByKey>(store: &S, check: &Check, at: Option<Timestamp>, taken: &S::Answer) {
    for _ in 0..GIVES {
        match store.give_back(check, at, taken).await {
            Err(error) if error.is_outage() && error.effect() == Effect::NotApplied => sleep(PAUSE).await,
            _given_or_lost => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algorithm::{Algorithm, BucketReading};
    use crate::key::Keyspace;
    use crate::quota::Quota;

    /// The first key denies until second 11; the second was looked at somewhat later than the first.
    fn seen_at(seconds: [u64; 2]) -> Option<Verdict> {
        let quota = Quota::per_second(1).build().unwrap();
        let keys = Keyspace::new("test", "rule", Algorithm::TokenBucket).unwrap();
        let checks = [b"a", b"b"].map(|key| Check { key: keys.key(key), quota, cost: 1 });
        let look = |second: u64, full_at: u64, granted| Answer {
            now: Timestamp::from_micros(second * 1_000_000).unwrap(),
            granted,
            readings: vec![Reading::Bucket(BucketReading::new(full_at * 1_000_000, 0))],
        };
        let looks = [look(seconds[0], 11, 0), look(seconds[1], seconds[1], 1)];
        seen(&Request::new(checks).unwrap(), &looks)
    }

    #[test]
    fn what_was_seen_at_several_instants_is_moved_to_the_last() {
        let verdict = seen_at([10, 10]).unwrap();
        let basis = verdict.basis().unwrap();
        assert_eq!((verdict.allowed(), basis.now.as_micros()), (false, 10_000_000));
        // Seen a second before, it denies for a second less by then.
        let earlier = seen_at([9, 10]).unwrap();
        assert_eq!(earlier.decisions()[0], verdict.decisions()[0]);
        // Later than that it does not, and nothing was taken: it is no verdict.
        assert_eq!(seen_at([10, 11]), None);
    }
}
