//! The task that carries what waits, one trip after another.

use super::queue::{Call, Queue, Reply};
use super::{CoalesceConfig, given_up, is_late, late, panicked, unanswered};
use crate::backend::Backend;
use crate::error::BackendError;
use crate::layer::{Answer, last_deadline};
use crate::request::Request;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

/// Starts the worker of a slot that was taken.
pub(super) fn start<B: Backend>(runtime: &Handle, inner: Arc<B>, queue: Arc<Queue>, config: CoalesceConfig) {
    let slot = Slot { queue, config, aboard: 0, carried: 0, free: false };
    // Nobody waits for the task itself: whoever waits for what it carries notices when it is dropped.
    drop(runtime.spawn(work(inner, slot)));
}

async fn work<B: Backend>(inner: Arc<B>, mut slot: Slot) {
    let mut calls = Vec::new();
    let mut trip = Trip::default();
    loop {
        // Whoever could ask now, above all those who were just answered, joins before the trip leaves.
        yield_now().await;
        if !slot.depart(&mut calls) {
            return;
        }
        trip.board(&mut calls);
        slot.carried = trip.requests.len();
        let (answers, missing) = trip.travel(&*inner).await;
        slot.land();
        trip.answer(answers, missing, inner.name());
    }
}

/// A worker's slot. Dropped with its task, as when the runtime shuts down, it is free again.
struct Slot {
    queue: Arc<Queue>,
    config: CoalesceConfig,
    /// Requests taken from the queue, and how many of them were sent.
    aboard: usize,
    carried: usize,
    free: bool,
}

impl Slot {
    fn depart(&mut self, calls: &mut Vec<Call>) -> bool {
        self.aboard = self.queue.depart(calls, &self.config);
        self.free = self.aboard == 0;
        !self.free
    }

    fn land(&mut self) {
        self.queue.landed(self.aboard, self.carried, &self.config);
        (self.aboard, self.carried) = (0, 0);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.free {
            self.queue.lost(self.aboard, self.carried, &self.config);
        }
    }
}

/// What travels together.
#[derive(Default)]
struct Trip {
    requests: Vec<Request>,
    passengers: Vec<Passenger>,
}

/// Who waits for answers: as many as it asked, of which those at the places `late` are not from the store.
struct Passenger {
    asked: usize,
    late: Vec<usize>,
    reply: oneshot::Sender<Reply>,
}

impl Trip {
    /// Takes the calls on board, but for requests whose deadline has passed.
    fn board(&mut self, calls: &mut Vec<Call>) {
        let now = Instant::now();
        for Call { mut requests, reply, .. } in calls.drain(..) {
            let mut passenger = Passenger { asked: requests.len(), late: Vec::new(), reply };
            if requests.iter().any(|request| is_late(request, now)) {
                for (place, request) in requests.drain(..).enumerate() {
                    if is_late(&request, now) {
                        passenger.late.push(place);
                    } else {
                        self.requests.push(request);
                    }
                }
            }
            self.requests.append(&mut requests);
            self.passengers.push(passenger);
        }
    }

    /// The answers, and why there are not more. Given up when the last deadline on board has passed.
    async fn travel<B: Backend>(&self, inner: &B) -> (Vec<Answer>, fn(&'static str) -> BackendError) {
        if self.requests.is_empty() {
            return (Vec::new(), unanswered);
        }
        let answers = caught(async { inner.decide(&self.requests).await });
        let answers = match last_deadline(&self.requests) {
            None => Ok(answers.await),
            Some(deadline) => timeout_at(deadline, answers).await,
        };
        match answers {
            Ok(Some(answers)) => (answers, unanswered),
            Ok(None) => (Vec::new(), panicked),
            Err(_) => (Vec::new(), given_up),
        }
    }

    /// Brings everyone on board what is theirs; who has no answer, a clone of one error.
    fn answer(
        &mut self,
        answers: Vec<Answer>,
        missing: fn(&'static str) -> BackendError,
        backend: &'static str,
    ) {
        self.requests.clear();
        let mut answers = answers.into_iter();
        let mut failure = None;
        for Passenger { asked, late: places, reply } in self.passengers.drain(..) {
            let answer = |place| {
                if places.binary_search(&place).is_ok() {
                    return Err(late(backend));
                }
                let failed = || Err(failure.get_or_insert_with(|| missing(backend)).clone());
                answers.next().unwrap_or_else(failed)
            };
            let own = (0..asked).map(answer).collect();
            // A caller that has gone needs no answer.
            let _gone = reply.send(Reply::Answers(own));
        }
    }
}

/// What the future gives, unless it panics.
async fn caught<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    // Unwind safe, as what panicked is not polled again, and the store is shared with other threads in any case.
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}
