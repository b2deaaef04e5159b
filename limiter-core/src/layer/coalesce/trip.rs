//! The task that carries what waits, one trip after another.

use super::arrival::Arrival;
use super::queue::{Load, Queue};
use super::{CoalesceConfig, given_up, is_late, late, panicked, too_few};
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
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

/// Starts the worker of a slot that was taken.
pub(super) fn start<B: Backend>(runtime: &Handle, inner: Arc<B>, queue: Arc<Queue>, config: CoalesceConfig) {
    let slot = Slot { queue, config, aboard: 0, carried: 0, arrival: None, free: false };
    // Nobody waits for the task itself: whoever waits for what it carries is told when it is dropped.
    drop(runtime.spawn(work(inner, slot)));
}

async fn work<B: Backend>(inner: Arc<B>, mut slot: Slot) {
    loop {
        // Whoever could ask now, above all those who were just answered, joins before the trip leaves.
        yield_now().await;
        let Some(load) = slot.depart() else { return };
        let trip = Trip::of(load);
        slot.carried = trip.requests.len();
        let (answers, missing) = trip.travel(&*inner).await;
        slot.land(trip.answers(answers, missing, inner.name()));
    }
}

/// A worker's slot. Dropped with its task, as when the runtime shuts down, it is free again.
struct Slot {
    queue: Arc<Queue>,
    config: CoalesceConfig,
    /// Requests taken from the queue, and how many of them were sent.
    aboard: usize,
    carried: usize,
    /// Where their callers wait.
    arrival: Option<Arc<Arrival>>,
    free: bool,
}

impl Slot {
    fn depart(&mut self) -> Option<Load> {
        let load = self.queue.depart(&self.config);
        self.free = load.is_none();
        self.aboard = load.as_ref().map_or(0, Load::aboard);
        self.arrival = load.as_ref().map(|load| Arc::clone(&load.arrival));
        load
    }

    fn land(&mut self, answers: Vec<Option<Answer>>) {
        self.queue.landed(self.aboard, self.carried, &self.config);
        (self.aboard, self.carried) = (0, 0);
        if let Some(arrival) = self.arrival.take() {
            arrival.bring(answers);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.free {
            self.queue.lost(self.aboard, self.carried, &self.config);
        }
        if let Some(arrival) = self.arrival.take() {
            arrival.lose();
        }
    }
}

/// What is sent of a load.
struct Trip {
    requests: Vec<Request>,
    /// Where not all of it is.
    rest: Option<Rest>,
}

/// What is sent and what is not of a load that has requests whose deadline has passed, or whose callers have gone.
struct Rest {
    /// The places in the load of what is sent.
    sent: Vec<usize>,
    places: usize,
}

impl Trip {
    fn of(load: Load) -> Self {
        let now = Instant::now();
        let Load { requests, mut vacant, .. } = load;
        if vacant.is_empty() && !requests.iter().any(|request| is_late(request, now)) {
            return Self { requests, rest: None };
        }
        vacant.sort_unstable();
        let places = requests.len();
        let is_sent = |(place, request): &(usize, Request)| {
            vacant.binary_search(place).is_err() && !is_late(request, now)
        };
        let (sent, requests) = requests.into_iter().enumerate().filter(is_sent).unzip();
        Self { requests, rest: Some(Rest { sent, places }) }
    }

    /// The answers, and why there are not more. Given up when the last deadline on board has passed.
    async fn travel<B: Backend>(&self, inner: &B) -> (Vec<Answer>, fn(&'static str) -> BackendError) {
        if self.requests.is_empty() {
            return (Vec::new(), too_few);
        }
        let answers = caught(async { inner.decide(&self.requests).await });
        let answers = match last_deadline(&self.requests) {
            None => Ok(answers.await),
            Some(deadline) => timeout_at(deadline, answers).await,
        };
        match answers {
            Ok(Some(answers)) => (answers, too_few),
            Ok(None) => (Vec::new(), panicked),
            Err(_) => (Vec::new(), given_up),
        }
    }

    /// One answer for each place of the load; where the store gave none, a clone of one error.
    fn answers(
        self,
        answers: Vec<Answer>,
        missing: fn(&'static str) -> BackendError,
        backend: &'static str,
    ) -> Vec<Option<Answer>> {
        let count = self.requests.len();
        let mut answers: Vec<Option<Answer>> = answers.into_iter().map(Some).collect();
        if answers.len() != count {
            answers.resize(count, Some(Err(missing(backend))));
        }
        let Some(Rest { sent, places }) = self.rest else { return answers };
        // Those who have gone take none.
        let mut all = vec![Some(Err(late(backend))); places];
        sent.into_iter().zip(answers).for_each(|(place, answer)| all[place] = answer);
        all
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
