//! The queue of one part of a store: who waits, how much is on its way, and who may leave.

use super::arrival::{Arrival, Reply};
use super::{CoalesceConfig, CoalesceUsage};
use crate::layer::Answer;
use crate::lock::{Lock, Locked};
use crate::request::Request;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::runtime::Handle;

/// One lock decides what is sent and what is taken out; it is held for a few instructions per call.
///
/// Where calls wait, there is a worker, or one that was lost has told each of them to come [`Reply::Again`].
#[derive(Default)]
pub(super) struct Queue {
    state: Lock<State>,
}

/// Shares are no smaller: the trip would cost more than what it carries.
const WORTH_A_TRIP: usize = 20;

#[derive(Default)]
struct State {
    /// In the order of their numbers. Calls board the last one, or take the place of one that has gone.
    waiting: VecDeque<Load>,
    next: u64,
    /// Requests that wait.
    queued: usize,
    /// Places of loads that wait of those who have gone.
    vacant: usize,
    /// Requests that wait or are on their way.
    outstanding: usize,
    /// The most that they were lately; it falls by an eighth with each trip and single call.
    lately: usize,
    /// Calls queue, as many requests were outstanding lately.
    collecting: bool,
    /// Tasks that carry what waits: slots taken.
    workers: usize,
    /// How many requests the last load had.
    usual: usize,
    trips: u64,
    carried: u64,
}

/// What leaves together, and where its callers wait for the answers.
pub(super) struct Load {
    number: u64,
    pub(super) requests: Vec<Request>,
    /// The places of requests whose callers have gone: they are not sent.
    pub(super) vacant: Vec<usize>,
    pub(super) arrival: Arc<Arrival>,
}

/// How a call that was taken on goes.
pub(super) enum Entered<'q> {
    Alone(Passage<'q>),
    Waiting(Waiting<'q>),
}

/// A call that waits. With a runtime: a slot was taken, and its worker is to be started there.
pub(super) type Waiting<'q> = (Ticket<'q>, Option<Handle>);

/// Why a call may not wait; nothing of it was sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    Full,
    NoRuntime,
}

impl Queue {
    /// Takes on a call: it goes to the store at once if nothing is outstanding, or little, and else waits.
    #[inline(always)]
    pub(super) fn enter<'q>(
        self: &'q Arc<Self>,
        batch: &[Request],
        config: &'q CoalesceConfig,
    ) -> Result<Entered<'q>, Refusal> {
        let mut state = self.state.lock();
        let few = !state.collecting && state.outstanding + batch.len() <= config.eager;
        if few || state.outstanding == 0 {
            state.outstanding += batch.len();
            return Ok(Entered::Alone(Passage { queue: self, config, requests: batch.len() }));
        }
        state.collecting = true;
        self.wait(state, batch, config).map(Entered::Waiting)
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

    /// Takes on a call that waits.
    pub(super) fn enqueue<'q>(
        self: &'q Arc<Self>,
        batch: &[Request],
        config: &CoalesceConfig,
    ) -> Result<Waiting<'q>, Refusal> {
        self.wait(self.state.lock(), batch, config)
    }

    #[inline(always)]
    fn wait<'q>(
        self: &'q Arc<Self>,
        mut state: Locked<'_, State>,
        batch: &[Request],
        config: &CoalesceConfig,
    ) -> Result<Waiting<'q>, Refusal> {
        if state.queued > 0 && !state.has_room(batch.len(), config.max_queued.get()) {
            return Err(Refusal::Full);
        }
        let free = state.workers < config.slots.get();
        let runtime = if free { Handle::try_current().ok() } else { None };
        if runtime.is_some() {
            state.workers += 1;
        } else if state.workers == 0 {
            return Err(Refusal::NoRuntime);
        }
        state.queued += batch.len();
        state.outstanding += batch.len();
        let (load, place) = state.board(batch, config);
        let (number, arrival) = (load.number, Arc::clone(&load.arrival));
        let ticket = Ticket { queue: self, number, arrival, place, count: batch.len(), settled: false };
        Ok((ticket, runtime))
    }

    /// The load that has waited longest; from here on it is sent. `None`: nobody waits, and the worker's slot is free
    /// again.
    pub(super) fn depart(&self, config: &CoalesceConfig) -> Option<Load> {
        let mut state = self.state.lock();
        let Some(load) = state.waiting.pop_front() else {
            state.workers -= 1;
            // A flood leaves no room behind that is not used.
            state.waiting.shrink_to(config.slots.get());
            return None;
        };
        state.queued -= load.aboard();
        state.vacant -= load.vacant.len();
        state.usual = load.requests.len();
        Some(load)
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
        (state.queued, state.vacant) = (0, 0);
        drop(state);
        waiting.iter().for_each(|load| load.arrival.come_again());
    }

    /// Takes out a call, if it still waits.
    fn withdraw(&self, number: u64, place: usize, count: usize) -> bool {
        let mut state = self.state.lock();
        let Ok(position) = state.waiting.binary_search_by_key(&number, |load| load.number) else {
            return false;
        };
        state.queued -= count;
        state.outstanding -= count;
        state.vacant += count;
        let load = &mut state.waiting[position];
        load.vacant.extend(place..place + count);
        if load.aboard() == 0 {
            state.vacant -= load.requests.len();
            state.waiting.remove(position);
        }
        true
    }

    pub(super) fn usage(&self) -> CoalesceUsage {
        let state = self.state.lock();
        let State { queued, outstanding, trips, carried, .. } = *state;
        CoalesceUsage { queued, in_flight: outstanding - queued, trips, carried }
    }
}

impl State {
    /// Whether so many more may wait. A call of several takes no places of those who have gone: where these are more than may
    /// wait, it has to come again.
    fn has_room(&self, requests: usize, most: usize) -> bool {
        self.queued + requests <= most && (requests == 1 || self.vacant <= most)
    }

    /// Puts a call where it fits: into the place of one that has gone, so that however many come and go there are never
    /// more places than requests that once waited together; else behind the last one, or into a new load.
    #[inline(always)]
    fn board(&mut self, batch: &[Request], config: &CoalesceConfig) -> (&Load, usize) {
        if let ([request], true) = (batch, self.vacant > 0)
            && let Some(i) = self.waiting.iter().position(|load| !load.vacant.is_empty())
            && let Some(place) = self.waiting[i].vacant.pop()
        {
            self.vacant -= 1;
            self.waiting[i].requests[place] = request.clone();
            return (&self.waiting[i], place);
        }
        let share = self.share(config);
        let most = config.max_batch.get();
        let fits = |load: &Load| load.aboard() < share && load.requests.len() + batch.len() <= most;
        if !self.waiting.back().is_some_and(fits) {
            let requests = Vec::with_capacity(self.usual.min(config.max_batch.get()).max(batch.len()));
            let load = Load { number: self.next, requests, vacant: Vec::new(), arrival: Arc::default() };
            self.next += 1;
            self.waiting.push_back(load);
        }
        let last = self.waiting.len() - 1;
        let load = &mut self.waiting[last];
        let place = load.requests.len();
        load.requests.extend_from_slice(batch);
        (load, place)
    }

    /// How many make a load that takes no more calls: of as many as there were lately, what leaves the other slots as much.
    /// If all went in one trip, the store would have nothing to do while its answers are told, and nobody would ask while
    /// it is busy. More than lately are a burst, of which each trip takes what it can.
    fn share(&self, config: &CoalesceConfig) -> usize {
        let trips = config.slots.get().min(self.lately / WORTH_A_TRIP);
        if trips < 2 || self.outstanding > self.lately {
            return config.max_batch.get();
        }
        self.lately.div_ceil(trips)
    }

    fn landed(&mut self, requests: usize, carried: usize, config: &CoalesceConfig) {
        self.lately = self.outstanding.max(self.lately - self.lately.div_ceil(8));
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

impl Load {
    /// How many requests have somebody who waits for them.
    pub(super) fn aboard(&self) -> usize {
        self.requests.len() - self.vacant.len()
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

/// A call that waits for what it is told. Dropped before that, it is taken out if it was not sent.
#[must_use]
pub(super) struct Ticket<'q> {
    queue: &'q Arc<Queue>,
    number: u64,
    arrival: Arc<Arrival>,
    place: usize,
    count: usize,
    settled: bool,
}

impl<'q> Ticket<'q> {
    pub(super) fn queue(&self) -> &'q Arc<Queue> {
        self.queue
    }

    /// What the call is told.
    #[inline(always)]
    pub(super) fn poll<A: FromIterator<Answer>>(&mut self, context: &mut Context<'_>) -> Poll<Reply<A>> {
        let reply = self.arrival.poll(self.place, self.count, context);
        self.settled = reply.is_ready();
        reply
    }

    /// Takes the call out; `false`: it was sent.
    pub(super) fn withdraw(&mut self) -> bool {
        // Before the place is free: a waker there may be its next one's afterwards.
        self.arrival.leave(self.place);
        self.settled = self.queue.withdraw(self.number, self.place, self.count);
        self.settled
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.withdraw();
        }
    }
}
