//! A call on its way: to the store at once, or in a queue until a trip brings its answers.

use super::arrival::Reply;
use super::queue::{Entered, Passage, Queue, Refusal, Ticket, Waiting};
use super::{Coalesce, full, late, lost, no_runtime, too_few, trip};
use crate::backend::{Backend, Deciding};
use crate::error::BackendError;
use crate::layer::{Answer, all_failed, last_deadline};
use crate::request::Request;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};

/// The answers to the requests of a call, one each. Nothing happens before it is polled, and it is not to be polled once
/// they are there.
///
/// Written by hand, as there is one for each who waits: the state of `async` functions would be four times as large.
#[must_use]
pub(super) struct Call<'c, B, A> {
    coalesce: &'c Coalesce<B>,
    batch: &'c [Request],
    way: Way<'c>,
    answers: PhantomData<fn() -> A>,
}

/// The answer to a call of one request, where a list would be one more allocation.
pub(super) struct Only(pub(super) Option<Answer>);

impl FromIterator<Answer> for Only {
    fn from_iter<I: IntoIterator<Item = Answer>>(answers: I) -> Self {
        Self(answers.into_iter().next())
    }
}

enum Way<'c> {
    NotBegun,
    /// As it is, in its caller's own future: nobody else depends on it.
    Alone(Deciding<'c>, Option<Passage<'c>>),
    Queued(Queued<'c>),
}

/// A call that waits for what a trip brings.
struct Queued<'c> {
    ticket: Ticket<'c>,
    send_by: SendBy,
    attempts: u8,
}

/// Until when a call waits to be sent.
enum SendBy {
    /// Without end.
    None,
    /// Whoever is above polls at this deadline.
    Watched(Instant),
    /// On the heap, as a timer is larger than all else that a call needs.
    Timed(Pin<Box<Sleep>>),
}

/// How often a call that lost the task which was to carry it looks for another: each time a runtime has shut down.
const ATTEMPTS: u8 = 3;

impl<'c, B: Backend, A: FromIterator<Answer>> Call<'c, B, A> {
    pub(super) fn new(coalesce: &'c Coalesce<B>, batch: &'c [Request]) -> Self {
        Self { coalesce, batch, way: Way::NotBegun, answers: PhantomData }
    }

    #[inline(always)]
    fn begin(&self) -> Result<Way<'c>, Refusal> {
        let Coalesce { inner, config, crossing, .. } = self.coalesce;
        let entered = match self.coalesce.queue(self.batch) {
            Some(queue) => queue.enter(self.batch, config)?,
            None => Entered::Alone(crossing.cross(self.batch.len(), config).ok_or(Refusal::Full)?),
        };
        Ok(match entered {
            Entered::Alone(passage) => Way::Alone(inner.decide(self.batch), Some(passage)),
            Entered::Waiting(waiting) => Way::Queued(self.wait(waiting, 1)),
        })
    }

    #[inline(always)]
    fn wait(&self, (ticket, worker): Waiting<'c>, attempts: u8) -> Queued<'c> {
        if let Some(runtime) = worker {
            // Not under the queue's lock: a runtime that has shut down drops the task here.
            let Coalesce { inner, config, .. } = self.coalesce;
            trip::start(&runtime, Arc::clone(inner), Arc::clone(ticket.queue()), *config);
        }
        Queued { ticket, send_by: SendBy::of(self.batch), attempts }
    }

    /// Waits anew after the task that was to send it is gone.
    fn wait_again(&self, queue: &'c Arc<Queue>, attempts: u8) -> Result<Queued<'c>, Refusal> {
        if attempts == ATTEMPTS {
            return Err(Refusal::NoRuntime);
        }
        Ok(self.wait(queue.enqueue(self.batch, &self.coalesce.config)?, attempts + 1))
    }

    fn refused(&self, refusal: Refusal) -> A {
        self.failed(match refusal {
            Refusal::Full => full,
            Refusal::NoRuntime => no_runtime,
        })
    }

    fn failed(&self, error: fn(&'static str) -> BackendError) -> A {
        all_failed(self.batch, &error(self.coalesce.name()))
    }

    /// What the store answered, an answer per request.
    fn answered(&self, mut answers: Vec<Answer>) -> A {
        if answers.len() != self.batch.len() {
            answers.resize_with(self.batch.len(), || Err(too_few(self.coalesce.name())));
        }
        answers.into_iter().collect()
    }
}

impl<B: Backend, A: FromIterator<Answer>> Future for Call<'_, B, A> {
    type Output = A;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<A> {
        let call = &mut *self;
        // Who has just begun to wait is not late: somebody polls when it is.
        let mut has_just_begun = false;
        loop {
            let next = match &mut call.way {
                Way::NotBegun if call.batch.is_empty() => return Poll::Ready(A::from_iter([])),
                Way::NotBegun => call.begin(),
                Way::Alone(deciding, passage) => {
                    let answers = ready!(deciding.as_mut().poll(context));
                    *passage = None;
                    return Poll::Ready(call.answered(answers));
                }
                Way::Queued(queued) => match ready!(queued.poll(context, has_just_begun)) {
                    Some(Reply::Answers(answers)) => return Poll::Ready(answers),
                    Some(Reply::Lost) => return Poll::Ready(call.failed(lost)),
                    None => return Poll::Ready(call.failed(late)),
                    Some(Reply::Again) => {
                        let (queue, attempts) = (queued.ticket.queue(), queued.attempts);
                        call.wait_again(queue, attempts).map(Way::Queued)
                    }
                },
            };
            match next {
                Ok(way) => call.way = way,
                Err(refusal) => return Poll::Ready(call.refused(refusal)),
            }
            has_just_begun = true;
        }
    }
}

impl Queued<'_> {
    /// What it is told; `None`: it was taken out at the deadline.
    #[inline(always)]
    fn poll<A: FromIterator<Answer>>(
        &mut self,
        context: &mut Context<'_>,
        has_just_begun: bool,
    ) -> Poll<Option<Reply<A>>> {
        if let Poll::Ready(reply) = self.ticket.poll(context) {
            return Poll::Ready(Some(reply));
        }
        if !self.send_by.has_come(context, has_just_begun) {
            return Poll::Pending;
        }
        if self.ticket.withdraw() {
            return Poll::Ready(None);
        }
        // It was sent: what comes of it is not waited for by any deadline of its own.
        self.send_by = SendBy::None;
        self.ticket.poll(context).map(Some)
    }
}

impl SendBy {
    fn of(batch: &[Request]) -> Self {
        match last_deadline(batch) {
            Some(deadline) if batch.iter().all(Request::is_watched) => Self::Watched(deadline),
            Some(deadline) if Handle::try_current().is_ok() => Self::Timed(Box::pin(sleep_until(deadline))),
            // What is not waited for by a timer is still not sent late.
            _ => Self::None,
        }
    }

    fn has_come(&mut self, context: &mut Context<'_>, has_just_begun: bool) -> bool {
        match self {
            Self::None => false,
            Self::Watched(deadline) => !has_just_begun && *deadline <= Instant::now(),
            Self::Timed(sleep) => sleep.as_mut().poll(context).is_ready(),
        }
    }
}
