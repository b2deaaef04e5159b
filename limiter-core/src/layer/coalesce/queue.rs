//! The queue of one part of a store: who waits, how much is on its way, and who may leave.

use super::{CoalesceConfig, CoalesceUsage};
use crate::layer::Answer;
use crate::request::Request;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// One lock decides what is sent and what is taken out; it is held for a few instructions per call.
///
/// Where calls wait, there is a worker, or one that was lost has told each of them to come [`Reply::Again`].
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order of their numbers.
    waiting: VecDeque<Call>,
    next: u64,
    /// Requests that wait.
    queued: usize,
    /// Requests that wait or are on their way.
    outstanding: usize,
    /// Calls queue, as many requests were outstanding lately.
    collecting: bool,
    /// Tasks that carry what waits: slots taken.
    workers: usize,
    trips: u64,
    carried: u64,
}

/// What one caller asks, which travels together.
pub(super) struct Call {
    number: u64,
    pub(super) requests: Vec<Request>,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// What a caller that waits is told. Its sender dropped: the task that carried it was.
pub(super) enum Reply {
    /// One per request.
    Answers(Vec<Answer>),
    /// The task that was to send it is gone, and it was not sent.
    Again,
}

pub(super) type Answers = oneshot::Receiver<Reply>;

/// Why a call may not wait; nothing of it was sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    Full,
    NoRuntime,
}

impl Queue {
    /// Takes on a call that goes to the store at once: nothing is outstanding, or little. `None`: it has to wait.
    pub(super) fn embark<'q>(&'q self, requests: usize, config: &'q CoalesceConfig) -> Option<Passage<'q>> {
        let mut state = self.state.lock();
        let few = !state.collecting && state.outstanding + requests <= config.eager;
        if few || state.outstanding == 0 {
            state.outstanding += requests;
            return Some(Passage { queue: self, config, requests });
        }
        state.collecting = true;
        None
    }

    /// Takes on a call that goes to the store at once however much is outstanding, unless it is too much.
    pub(super) fn cross<'q>(&'q self, requests: usize, config: &'q CoalesceConfig) -> Option<Passage<'q>> {
        let mut state = self.state.lock();
        if state.outstanding > 0 && state.outstanding + requests > config.max_queued.get() {
            return None;
        }
        state.outstanding += requests;
        Some(Passage { queue: self, config, requests })
    }

    /// Lets a call wait. With a runtime: a slot was taken, and its worker is to be started there.
    pub(super) fn enqueue(
        &self,
        requests: Vec<Request>,
        config: &CoalesceConfig,
    ) -> Result<(Ticket<'_>, Answers, Option<Handle>), Refusal> {
        let (sender, receiver) = oneshot::channel();
        let count = requests.len();
        let mut state = self.state.lock();
        if state.queued > 0 && state.queued + count > config.max_queued.get() {
            return Err(Refusal::Full);
        }
        let free = state.workers < config.slots.get();
        let runtime = if free { Handle::try_current().ok() } else { None };
        if runtime.is_some() {
            state.workers += 1;
        } else if state.workers == 0 {
            return Err(Refusal::NoRuntime);
        }
        let number = state.next;
        state.next += 1;
        state.queued += count;
        state.outstanding += count;
        state.waiting.push_back(Call { number, requests, reply: sender });
        Ok((Ticket { queue: self, number, settled: false }, receiver, runtime))
    }

    /// Moves the longest waiting calls that fit in a trip to `calls`; from here on they are sent. How many requests
    /// they are; 0: nobody waits, and the worker's slot is free again.
    pub(super) fn depart(&self, calls: &mut Vec<Call>, config: &CoalesceConfig) -> usize {
        let mut state = self.state.lock();
        let mut requests = 0;
        while let Some(next) = state.waiting.front() {
            let with_next = requests + next.requests.len();
            if requests > 0 && with_next > config.max_batch.get() {
                break;
            }
            requests = with_next;
            calls.extend(state.waiting.pop_front());
        }
        state.queued -= requests;
        if requests == 0 {
            state.workers -= 1;
            // A flood leaves no room behind that is not used.
            state.waiting.shrink_to(config.max_batch.get());
        }
        requests
    }

    /// `requests` have their answers, `carried` of them from the store.
    pub(super) fn landed(&self, requests: usize, carried: usize, config: &CoalesceConfig) {
        self.state.lock().landed(requests, carried, config);
    }

    /// A worker is gone with `requests` aboard. The last one tells those who wait to look for another.
    pub(super) fn lost(&self, requests: usize, carried: usize, config: &CoalesceConfig) {
        let mut state = self.state.lock();
        state.landed(requests, carried, config);
        state.workers -= 1;
        if state.workers > 0 {
            return;
        }
        let waiting = std::mem::take(&mut state.waiting);
        state.outstanding -= state.queued;
        state.queued = 0;
        drop(state);
        for call in waiting {
            let _gone = call.reply.send(Reply::Again);
        }
    }

    /// Takes out a call, if it still waits.
    fn withdraw(&self, number: u64) -> Option<Call> {
        let mut state = self.state.lock();
        let position = state.waiting.binary_search_by_key(&number, |call| call.number).ok()?;
        let call = state.waiting.remove(position)?;
        state.queued -= call.requests.len();
        state.outstanding -= call.requests.len();
        Some(call)
    }

    pub(super) fn usage(&self) -> CoalesceUsage {
        let state = self.state.lock();
        let State { queued, outstanding, trips, carried, .. } = *state;
        CoalesceUsage { queued, in_flight: outstanding - queued, trips, carried }
    }
}

impl State {
    fn landed(&mut self, requests: usize, carried: usize, config: &CoalesceConfig) {
        // Counted before they leave: those that come back together would else look like few.
        if self.outstanding <= (config.eager * 2).div_ceil(3) {
            self.collecting = false;
        }
        self.outstanding -= requests;
        if carried > 0 {
            self.trips += 1;
            self.carried += carried as u64;
        }
    }
}

/// A call on its way in its caller's own future, until it is dropped.
#[must_use]
pub(super) struct Passage<'q> {
    queue: &'q Queue,
    config: &'q CoalesceConfig,
    requests: usize,
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.queue.landed(self.requests, self.requests, self.config);
    }
}

/// A call that waits. Dropped before its answer came, it is taken out if it was not sent.
#[must_use]
pub(super) struct Ticket<'q> {
    queue: &'q Queue,
    number: u64,
    settled: bool,
}

impl Ticket<'_> {
    /// Takes the call out; `false`: it was sent.
    pub(super) fn withdraw(&mut self) -> bool {
        self.settled = self.queue.withdraw(self.number).is_some();
        self.settled
    }

    /// The answer came.
    pub(super) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.withdraw();
        }
    }
}
