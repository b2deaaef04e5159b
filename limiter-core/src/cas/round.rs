//! What one write carries: the requests that wait for a key, decided on the state that it has.

use super::backend::late;
use super::config::CasConfig;
use super::part::Reply;
use super::state::State;
use crate::algorithm::Reading;
use crate::error::BackendError;
use crate::key::StorageKey;
use crate::request::Check;
use crate::time::Timestamp;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What a request of one check wants of its key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// To be taken if it is admitted.
    Take,
    /// To know whether it would be.
    Look,
    /// That what was taken at an instant, on what was read then, is given back.
    GiveBack(Timestamp, Reading),
}

/// What a request of one check is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) now: Timestamp,
    pub(super) reading: Reading,
    pub(super) granted: bool,
}

/// A request of one check that waits for its key.
pub(super) struct Waiter {
    /// In the order in which they came.
    pub(super) number: u64,
    pub(super) check: Check,
    pub(super) wish: Wish,
    pub(super) at: Option<Timestamp>,
    pub(super) deadline: Option<Instant>,
    pub(super) reply: oneshot::Sender<Reply>,
    /// How often another process was faster, and since when.
    pub(super) tries: u32,
    pub(super) since: Option<Instant>,
}

impl Waiter {
    pub(super) fn answer(self, answer: Result<Answer, BackendError>) {
        // A caller that has gone needs no answer.
        let _gone = self.reply.send(Reply::Answer(answer));
    }
}

/// What is known of a key.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) state: State,
    /// `None`: it was absent.
    pub(super) version: Option<u64>,
    /// Who came before this number came before it was read: a denial or a peek needs no write to be true. For the
    /// others only a write proves that nothing has changed since.
    pub(super) read_after: u64,
    /// How many writes in a row it comes from.
    pub(super) streak: u32,
}

/// A key's state, decided upon.
pub(super) struct Round {
    pub(super) key: StorageKey,
    pub(super) known: Known,
    /// Those whose answers are true once the state is written.
    pub(super) aboard: Vec<(Waiter, Answer)>,
    /// For how long it is to be kept; `None`: it has not changed, and is not written.
    pub(super) keep: Option<Duration>,
}

impl Round {
    /// Decides those who wait, in order, and answers whom it can.
    pub(super) fn decide(
        key: StorageKey,
        known: Known,
        waiting: impl IntoIterator<Item = Waiter>,
        started: Instant,
        config: &CasConfig,
        name: &'static str,
    ) -> Self {
        let mut round = Self { key, known, aboard: Vec::new(), keep: None };
        let mut clock = None;
        for waiter in waiting {
            if waiter.reply.is_closed() {
                continue;
            }
            if waiter.deadline.is_some_and(|deadline| deadline <= started) {
                waiter.answer(Err(late(name)));
                continue;
            }
            let now = waiter.at.unwrap_or_else(|| *clock.get_or_insert_with(Timestamp::now));
            match round.step(&waiter, now, config) {
                Some(answer) if round.keep.is_none() && waiter.number < round.known.read_after => {
                    waiter.answer(Ok(answer));
                }
                Some(answer) => round.aboard.push((waiter, answer)),
                None => {}
            }
        }
        round
    }

    /// Decides one; `None` if the quota is not of the key's algorithm, which no request can be.
    fn step(&mut self, waiter: &Waiter, now: Timestamp, config: &CasConfig) -> Option<Answer> {
        let Check { quota, cost, .. } = &waiter.check;
        let state = &mut self.known.state;
        let (reading, granted, reset_after) = match waiter.wish {
            Wish::Take | Wish::Look => {
                let reading = state.read(quota, *cost, now);
                let decision = reading.decide(quota, *cost, now)?;
                let takes = decision.allowed && *cost > 0 && matches!(waiter.wish, Wish::Take);
                if takes {
                    state.take(&reading, quota, *cost);
                }
                (reading, decision.allowed, takes.then_some(decision.reset_after))
            }
            Wish::GiveBack(taken_at, taken) => {
                let before = state.clone();
                state.give_back(quota, *cost, &taken, taken_at, now);
                let reading = state.read(quota, 0, now);
                let left = reading.decide(quota, 0, now)?.reset_after;
                (reading, true, (*state != before).then_some(left))
            }
        };
        if let Some(needed) = reset_after {
            let needed = needed.saturating_add(config.grace);
            let keep = if waiter.at.is_some() { needed.max(config.virtual_expiry) } else { needed };
            self.keep = self.keep.max(Some(keep));
        }
        Some(Answer { now, reading, granted })
    }

    /// Everyone aboard is told the same.
    pub(super) fn fail(self, error: &BackendError) {
        self.aboard.into_iter().for_each(|(waiter, _)| waiter.answer(Err(error.clone())));
    }
}
