//! Where the callers of one load wait for what comes back.

use crate::layer::Answer;
use crate::lock::Lock;
use std::task::{Context, Poll, Waker};

/// One for all that travel together: what a trip brings is handed over at once, and each takes what is its own.
#[derive(Default)]
pub(super) struct Arrival(Lock<State>);

#[derive(Default)]
struct State {
    brought: Brought,
    /// Who is to be told, by place.
    wakers: Vec<Option<Waker>>,
}

#[derive(Default)]
enum Brought {
    #[default]
    Nothing,
    /// One per place, until it is taken.
    Answers(Vec<Option<Answer>>),
    Again,
    Lost,
}

/// What a caller that waits is told.
pub(super) enum Reply<A> {
    /// One per request.
    Answers(A),
    /// The task that was to send it is gone, and it was not sent.
    Again,
    /// The task that carried it is gone.
    Lost,
}

impl Arrival {
    /// The answers of all places.
    pub(super) fn bring(&self, answers: Vec<Option<Answer>>) {
        self.tell(Brought::Answers(answers));
    }

    /// None of it was sent.
    pub(super) fn come_again(&self) {
        self.tell(Brought::Again);
    }

    /// Nobody will bring anything any more, unless it was brought.
    pub(super) fn lose(&self) {
        self.tell(Brought::Lost);
    }

    fn tell(&self, brought: Brought) {
        let mut state = self.0.lock();
        if !matches!(state.brought, Brought::Nothing) {
            return;
        }
        state.brought = brought;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Who waited at this place is not to be told.
    pub(super) fn leave(&self, place: usize) {
        let waker = self.0.lock().wakers.get_mut(place).and_then(Option::take);
        // Not under the lock: it may be the last that holds its task.
        drop(waker);
    }

    /// What was brought for so many requests from this place on.
    #[inline(always)]
    pub(super) fn poll<A: FromIterator<Answer>>(
        &self,
        place: usize,
        count: usize,
        context: &mut Context<'_>,
    ) -> Poll<Reply<A>> {
        let mut state = self.0.lock();
        let State { brought, wakers } = &mut *state;
        Poll::Ready(match brought {
            Brought::Nothing => {
                if wakers.len() <= place {
                    wakers.resize(place + 1, None);
                }
                let replaced = match &mut wakers[place] {
                    Some(known) if known.will_wake(context.waker()) => None,
                    known => known.replace(context.waker().clone()),
                };
                drop(state);
                // As in `leave`.
                drop(replaced);
                return Poll::Pending;
            }
            Brought::Answers(answers) => {
                let own = answers.get_mut(place..place + count).unwrap_or_default();
                Reply::Answers(own.iter_mut().filter_map(Option::take).collect())
            }
            Brought::Again => Reply::Again,
            Brought::Lost => Reply::Lost,
        })
    }
}
