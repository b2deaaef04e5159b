//! One timer for all who wait: limits of one length run out in the order in which they began.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep, sleep_until};

/// Wakes each who waits at their deadline, by one task, which sleeps until the next of them: a timer per call costs more
/// than all else that this layer does.
///
/// The task runs where the first who waits does, and ends when it finds nobody waiting. Who waits on another runtime,
/// which may be driven when that one is not, has a timer of their own, and so has one whose deadline is before that of
/// others, or before the task's next look.
#[derive(Debug, Default)]
pub(super) struct Clock(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// In the order of their numbers, which is that of their deadlines.
    calls: VecDeque<Call>,
    next: u64,
    /// Of the calls, those that have left.
    gone: usize,
    /// Where the task runs, and until when it sleeps.
    task: Option<(Id, Instant)>,
}

#[derive(Debug)]
struct Call {
    number: u64,
    deadline: Instant,
    /// `None`: it has left.
    waker: Option<Waker>,
}

/// So many more than wait may have left before their places are swept.
const SLACK: usize = 32;

impl Clock {
    /// What the future gives; nothing, if it does not when it is polled at the deadline. It is polled first, also then: who
    /// knows that it was not sent is heard.
    pub(super) fn by<F: Future + Unpin>(&self, deadline: Instant, future: F) -> By<'_, F> {
        By { clock: self, deadline, future, place: Place::Nowhere }
    }

    /// Takes a call in; and whether the task is to be started. `None`: it needs a timer of its own.
    #[inline(always)]
    fn enter(&self, deadline: Instant, runtime: &Handle, waker: &Waker) -> Option<(u64, bool)> {
        let mut waiting = self.0.lock();
        let is_next = waiting.calls.back().is_none_or(|last| last.deadline <= deadline);
        let is_watched = waiting.task.is_none_or(|(id, until)| id == runtime.id() && until <= deadline);
        if !is_next || !is_watched {
            return None;
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.calls.push_back(Call { number, deadline, waker: Some(waker.clone()) });
        let starts = waiting.task.is_none();
        waiting.task.get_or_insert((runtime.id(), deadline));
        Some((number, starts))
    }

    /// Not under the lock: a runtime that has shut down drops the task here.
    #[cold]
    fn start(&self, first: Instant, runtime: &Handle) {
        let bell = Bell { waiting: Arc::clone(&self.0), has_ended: false };
        // Made here, so that a runtime without timers panics here, and not where nobody hears.
        let sleep = Box::pin(sleep_until(first));
        drop(runtime.spawn(bell.ring(sleep)));
    }

    /// What a call that is polled again, and not answered yet, is to do.
    fn stay(&self, number: u64, runtime: Id, waker: &Waker) -> Stay {
        let mut waiting = self.0.lock();
        let Some(place) = waiting.place(number) else { return Stay::Due };
        if waiting.task.is_none_or(|(id, _)| id != runtime) {
            return Stay::Lost;
        }
        let own = &mut waiting.calls[place].waker;
        let is_same = own.as_ref().is_some_and(|own| own.will_wake(waker));
        let replaced = if is_same { None } else { own.replace(waker.clone()) };
        drop(waiting);
        // A waker may do anything when it is dropped.
        drop(replaced);
        Stay::Waiting
    }

    #[inline(always)]
    fn leave(&self, number: u64) {
        let mut waiting = self.0.lock();
        let waker = waiting.leave(number);
        drop(waiting);
        drop(waker);
    }
}

enum Stay {
    Waiting,
    Due,
    /// The task that was to wake it went with its runtime.
    Lost,
}

impl Waiting {
    /// `None`: it was woken, as it is due.
    fn place(&self, number: u64) -> Option<usize> {
        self.calls.binary_search_by_key(&number, |call| call.number).ok()
    }

    fn leave(&mut self, number: u64) -> Option<Waker> {
        let place = self.place(number)?;
        let waker = self.calls[place].waker.take();
        self.gone += 1;
        while self.calls.front().is_some_and(|first| first.waker.is_none()) {
            self.calls.pop_front();
            self.gone -= 1;
        }
        if self.gone > self.calls.len() - self.gone + SLACK {
            self.calls.retain(|call| call.waker.is_some());
            self.gone = 0;
        }
        waker
    }

    /// Those who are due, and when the next is. `None`: nobody waits, and there is room for another task.
    fn ring(&mut self, now: Instant) -> (Vec<Waker>, Option<Instant>) {
        let mut due = Vec::new();
        while let Some(first) = self.calls.front() {
            let next = first.deadline;
            if first.waker.is_some() && now < next {
                self.task = self.task.map(|(id, _)| (id, next));
                return (due, Some(next));
            }
            match self.calls.pop_front().and_then(|call| call.waker) {
                Some(waker) => due.push(waker),
                None => self.gone -= 1,
            }
        }
        self.task = None;
        // A flood leaves no room behind that is not used.
        self.calls.shrink_to(SLACK);
        (due, None)
    }
}

/// The task's own. Dropped before it has ended, as when its runtime shuts down, it wakes all to see to themselves.
struct Bell {
    waiting: Arc<Mutex<Waiting>>,
    has_ended: bool,
}

impl Bell {
    async fn ring(mut self, mut sleep: Pin<Box<Sleep>>) {
        loop {
            sleep.as_mut().await;
            let (due, next) = self.waiting.lock().ring(Instant::now());
            self.has_ended = next.is_none();
            due.into_iter().for_each(Waker::wake);
            match next {
                Some(next) => sleep.as_mut().reset(next),
                None => return,
            }
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let mut waiting = self.waiting.lock();
        waiting.task = None;
        let wakers: Vec<Waker> = waiting.calls.iter().filter_map(|call| call.waker.clone()).collect();
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// What a future gives by a deadline. The future is polled first, also then.
#[must_use]
pub(super) struct By<'c, F> {
    clock: &'c Clock,
    deadline: Instant,
    future: F,
    place: Place,
}

/// Where a call waits for its deadline.
enum Place {
    Nowhere,
    /// By its number, with a task of this runtime.
    Queued(u64, Id),
    Alone(Pin<Box<Sleep>>),
}

impl<F> By<'_, F> {
    /// Begins to wait for the deadline; whether it has come. Where there is no runtime, nobody waits for it.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Ok(runtime) = Handle::try_current() else { return Poll::Pending };
        let Some((number, starts)) = self.clock.enter(self.deadline, &runtime, context.waker()) else {
            return self.wait_alone(context);
        };
        self.place = Place::Queued(number, runtime.id());
        if starts {
            self.clock.start(self.deadline, &runtime);
        }
        Poll::Pending
    }

    fn wait_alone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut sleep = Box::pin(sleep_until(self.deadline));
        let has_come = sleep.as_mut().poll(context);
        self.place = Place::Alone(sleep);
        has_come
    }

    fn leave(&mut self) {
        if let Place::Queued(number, _) = self.place {
            self.clock.leave(number);
        }
        self.place = Place::Nowhere;
    }
}

impl<F: Future + Unpin> Future for By<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Poll::Ready(output) = Pin::new(&mut this.future).poll(context) {
            return Poll::Ready(Some(output));
        }
        let has_come = match &mut this.place {
            Place::Nowhere => this.wait(context),
            Place::Alone(sleep) => sleep.as_mut().poll(context),
            Place::Queued(number, runtime) => match this.clock.stay(*number, *runtime, context.waker()) {
                Stay::Waiting => Poll::Pending,
                Stay::Due => Poll::Ready(()),
                Stay::Lost => {
                    this.leave();
                    // With a timer, as another task could be lost as soon, and so on without end.
                    if Handle::try_current().is_ok() { this.wait_alone(context) } else { Poll::Pending }
                }
            },
        };
        has_come.map(|()| None)
    }
}

impl<F> Drop for By<'_, F> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::pin::pin;
    use std::time::Duration;

    fn by(clock: &Clock, millis: u64) -> By<'_, impl Future<Output = ()> + Unpin> {
        let deadline = Instant::now() + Duration::from_millis(millis);
        clock.by(deadline, Box::pin(pending()))
    }

    fn poll_once(waits: Pin<&mut By<'_, impl Future<Output = ()> + Unpin>>) -> Poll<Option<()>> {
        waits.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Also behind one who stays.
    #[tokio::test(start_paused = true)]
    async fn calls_that_are_over_leave_nothing_behind() {
        let clock = Clock::default();
        let mut first = pin!(by(&clock, 50));
        assert!(poll_once(first.as_mut()).is_pending());
        for _ in 0..10_000 {
            let mut others = [by(&clock, 50), by(&clock, 50), by(&clock, 20)];
            assert!(others.iter_mut().all(|other| poll_once(Pin::new(other)).is_pending()));
            drop(others);
            assert!(clock.0.lock().calls.len() <= 2 * SLACK);
        }
        assert_eq!(first.await, None);
        let waiting = clock.0.lock();
        assert_eq!((waiting.calls.len(), waiting.gone, waiting.task), (0, 0, None), "and the task has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_a_limit_after_the_last_call() {
        let clock = Clock::default();
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        for _ in 0..10 {
            let mut waits = pin!(by(&clock, 50));
            assert!(poll_once(waits.as_mut()).is_pending());
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert_eq!(tasks() - before, 1, "one for all");
        }
        tokio::time::sleep(Duration::from_millis(51)).await;
        assert_eq!(tasks(), before);
    }
}
