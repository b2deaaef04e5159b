//! Requests over several slots of a cluster, which no script can decide in one step: all checks are looked at in
//! parallel, and taken in key order if none denies. If one denies after all, what was taken is given back: the request may deny too much for a moment, and never admits too much.

use crate::backend::Inner;
use crate::batch::Answer;
use crate::error::{NAME, malformed, unsent};
use crate::route::{Slot, text};
use crate::script::GIVE_BACK;
use crate::server::Call;
use futures_util::future::join_all;
use limiter_core::batch;
use limiter_core::{BackendError, Check, Decision, Effect, ErrorKind, Request, Timestamp, Verdict};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Decides in a task of its own: a caller who goes away leaves nothing half done.
pub(crate) async fn decide(inner: &Arc<Inner>, request: &Request) -> Result<Verdict, BackendError> {
    let Ok(runtime) = Handle::try_current() else {
        return Err(unsent(ErrorKind::Config, "decide", "a tokio runtime is needed, and there is none"));
    };
    let (inner, request) = (Arc::clone(inner), request.clone());
    runtime.spawn(async move { take_all(&inner, &request).await }).await.unwrap_or_else(|_lost| {
        let message = "the task of the request ended with its runtime";
        Err(BackendError::new(ErrorKind::Unexpected, Effect::Unknown, NAME, "decide", message))
    })
}

async fn take_all(inner: &Inner, request: &Request) -> Result<Verdict, BackendError> {
    let alone: Vec<Request> =
        request.checks().iter().map(|check| alone(request, check)).collect::<Result<_, _>>()?;
    let looks = join_all(alone.iter().map(|check| inner.look(check))).await;
    let looks: Vec<Answer> = looks.into_iter().collect::<Result<_, _>>()?;
    if looks.iter().any(|look| look.answer.granted == 0) {
        return report(request, &looks, None);
    }
    let mut order: Vec<usize> = (0..alone.len()).collect();
    order.sort_by_cached_key(|i| text(&request.checks()[*i].key));
    let mut taken: Vec<(usize, Answer)> = Vec::with_capacity(alone.len());
    for i in order {
        let answer = inner.take(&alone[i]).await;
        match answer {
            Ok(answer) if answer.answer.granted > 0 => taken.push((i, answer)),
            Ok(denied) => {
                give_all_back(inner, request, &taken).await;
                return report(request, &looks, Some((i, denied)));
            }
            Err(error) if taken.is_empty() => return Err(error),
            Err(error) => {
                give_all_back(inner, request, &taken).await;
                let message =
                    "a later key gave no answer; what was taken of others was given back where it could be";
                return Err(BackendError::new(error.kind(), Effect::Unknown, NAME, "decide", message)
                    .with_source(error));
            }
        }
    }
    taken.sort_unstable_by_key(|(i, _)| *i);
    let decisions =
        taken.iter().zip(request.checks()).map(|((_, answer), check)| decision(answer, check, check.cost));
    decisions.collect()
}

/// The request of one check of these.
fn alone(request: &Request, check: &Check) -> Result<Request, BackendError> {
    let mut alone = Request::one(check.clone()).map_err(|_| malformed())?;
    if let Some(at) = request.instant() {
        alone = alone.at(at);
    }
    Ok(match request.deadline() {
        Some(deadline) => alone.with_deadline(deadline),
        None => alone,
    })
}

/// The verdict of a denied request: of a check that denied when it was taken, its answer then; else what was seen.
fn report(
    request: &Request,
    looks: &[Answer],
    denied: Option<(usize, Answer)>,
) -> Result<Verdict, BackendError> {
    let each = request.checks().iter().zip(looks).enumerate().map(|(i, (check, look))| match &denied {
        Some((denying, answer)) if *denying == i => decision(answer, check, check.cost),
        _ if look.answer.granted == 0 => decision(look, check, check.cost),
        _ => decision(look, check, 0),
    });
    each.collect()
}

fn decision(answer: &Answer, check: &Check, cost: u64) -> Result<Decision, BackendError> {
    let batch::Answer { now, readings, .. } = &answer.answer;
    let reading = readings.first().ok_or_else(malformed)?;
    reading.decide(&check.quota, cost, *now).ok_or_else(malformed)
}

async fn give_all_back(inner: &Inner, request: &Request, taken: &[(usize, Answer)]) {
    let gifts = taken.iter().filter_map(|(i, answer)| {
        let check = request.checks().get(*i).filter(|check| check.cost > 0)?;
        Some(give_back(inner, check, request.instant(), answer))
    });
    join_all(gifts).await;
}

/// Gives one check's cost back; it stays taken, which is stricter, where Redis does not answer.
async fn give_back(inner: &Inner, check: &Check, at: Option<Timestamp>, taken: &Answer) {
    let gift = inner.gift(check, at, taken);
    let call = Call {
        operation: "give back",
        script: &GIVE_BACK,
        keys: vec![text(&check.key)],
        arguments: vec![&gift],
    };
    let _stays_taken = inner.route.call(Slot::of(&check.key), &call, inner.patience(None)).await;
}
