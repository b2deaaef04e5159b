//! The tasks that carry trips to the store and back, one after another.

use super::backend::{Inner, contention, too_long, unanswered, unread};
use super::part::{Landed, Next, Part, Trip};
use super::round::{Known, Round, Waiter};
use super::state::State;
use super::{CasStore, Swap, Value, Write};
use crate::error::BackendError;
use crate::key::StorageKey;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

/// Starts a worker that was counted.
pub(super) fn start<S: CasStore>(runtime: &Handle, inner: Arc<Inner<S>>, part: Arc<Part>) {
    let worker = Worker { inner, part, aboard: Vec::new(), has_ended: false };
    // Nobody waits for the task itself: whoever waits for what it carries notices when it is dropped.
    drop(runtime.spawn(work(worker)));
}

async fn work<S: CasStore>(mut worker: Worker<S>) {
    loop {
        // Whoever could ask now, above all those who were just answered, joins before the trip leaves.
        yield_now().await;
        match worker.part.depart(&worker.inner.config) {
            Some(Trip::Reads(keys, before)) => worker.read(keys, before).await,
            Some(Trip::Uses(uses)) => worker.swap(uses).await,
            None => {
                worker.has_ended = true;
                return;
            }
        }
        worker.inner.counts.trips.fetch_add(1, Ordering::Relaxed);
    }
}

/// Dropped with its task, as when the runtime shuts down, it leaves nobody behind.
struct Worker<S: CasStore> {
    inner: Arc<Inner<S>>,
    part: Arc<Part>,
    /// The keys of the trip that is on its way.
    aboard: Vec<StorageKey>,
    has_ended: bool,
}

impl<S: CasStore> Worker<S> {
    async fn read(&mut self, keys: Vec<StorageKey>, before: u64) {
        self.aboard = keys;
        let values = self.inner.store.read(&self.aboard).await;
        let mut values = values.into_iter();
        let landed: Vec<(StorageKey, Landed)> = std::mem::take(&mut self.aboard)
            .into_iter()
            .map(|key| {
                let value = values.next().unwrap_or_else(|| Err(unread(self.inner.name)));
                let landed = match value {
                    Ok(value) => Landed::Read(self.known(&key, value, before)),
                    Err(error) => Landed::Failed(error),
                };
                (key, landed)
            })
            .collect();
        self.land(landed);
    }

    fn known(&self, key: &StorageKey, value: Option<Value>, read_after: u64) -> Known {
        let algorithm = key.keyspace().algorithm();
        let version = value.as_ref().map(|value| value.version);
        let state = value.and_then(|value| {
            let state = State::decode(algorithm, &value.bytes);
            if state.is_none() {
                self.inner.counts.corrupt.fetch_add(1, Ordering::Relaxed);
            }
            state
        });
        let state = state.unwrap_or_else(|| State::fresh(algorithm));
        Known { state, version, read_after, streak: 0 }
    }

    /// Decides upon what is known of each key, and writes what has changed.
    async fn swap(&mut self, uses: Vec<(StorageKey, Known, VecDeque<Waiter>)>) {
        self.aboard = uses.iter().map(|(key, ..)| key.clone()).collect();
        let (config, name) = (&self.inner.config, self.inner.name);
        let started = Instant::now();
        let (mut rounds, mut writes, mut unwritten) = (Vec::new(), Vec::new(), Vec::new());
        for (key, known, waiting) in uses {
            let mut round = Round::decide(key, known, waiting, started, config, name);
            let Some(keep) = round.keep else {
                let waiters = round.aboard.drain(..).map(|(waiter, _)| waiter).collect();
                unwritten.push((round.key, Landed::Unwritten(waiters)));
                continue;
            };
            let bytes = round.known.state.encode();
            let (length, most) = (bytes.len() as u64, self.inner.store.most_bytes());
            if length > most {
                unwritten.push((round.key.clone(), Landed::Unwritten(Vec::new())));
                round.fail(&too_long(name, length, most));
                continue;
            }
            writes.push(Write { key: round.key.clone(), bytes, expected: round.known.version, keep });
            rounds.push(round);
        }
        self.land(unwritten);
        self.aboard = writes.iter().map(|write| write.key.clone()).collect();
        if writes.is_empty() {
            return;
        }
        let swaps = self.inner.store.write(&writes).await;
        self.aboard.clear();
        self.conclude(rounds, swaps);
    }

    /// Tells those aboard what became of the writes, once their keys are where they belong: who asks again at once
    /// finds what is known.
    fn conclude(&self, rounds: Vec<Round>, swaps: Vec<Result<Swap, BackendError>>) {
        let counts = &self.inner.counts;
        let mut swaps = swaps.into_iter();
        let (mut landed, mut granted, mut failed, mut exhausted) = (vec![], vec![], vec![], vec![]);
        for mut round in rounds {
            let key = round.key.clone();
            match swaps.next().unwrap_or_else(|| Err(unanswered(self.inner.name, "decide"))) {
                Ok(Swap::Written(version)) => {
                    counts.swaps.fetch_add(1, Ordering::Relaxed);
                    let Known { state, streak, .. } = round.known;
                    let known = Known { state, version, read_after: 0, streak: streak + 1 };
                    landed.push((key, Landed::Written(known)));
                    granted.append(&mut round.aboard);
                }
                Ok(Swap::Changed) => {
                    counts.conflicts.fetch_add(1, Ordering::Relaxed);
                    let (over, waiters) = self.tried(round);
                    exhausted.extend(over);
                    landed.push((key, Landed::Changed(waiters)));
                }
                Err(error) => {
                    landed.push((key, Landed::Unwritten(Vec::new())));
                    failed.push((round, error));
                }
            }
        }
        self.land(landed);
        granted.into_iter().for_each(|(waiter, answer)| waiter.answer(Ok(answer)));
        failed.into_iter().for_each(|(round, error)| round.fail(&error));
        for waiter in exhausted {
            let error = contention(self.inner.name, waiter.tries);
            waiter.answer(Err(error));
        }
    }

    /// Those whose attempts or time are over, and those who try again.
    fn tried(&self, round: Round) -> (Vec<Waiter>, Vec<Waiter>) {
        let (config, now) = (&self.inner.config, Instant::now());
        let tried = round.aboard.into_iter().map(|(mut waiter, _)| {
            waiter.tries += 1;
            waiter.since.get_or_insert(now);
            waiter
        });
        tried.partition(|waiter| {
            let since = waiter.since.unwrap_or(now);
            waiter.tries >= config.attempts.get() || now.duration_since(since) >= config.patience
        })
    }

    fn land(&self, landed: Vec<(StorageKey, Landed)>) {
        for (key, next) in self.part.land(landed, &self.inner.config) {
            match next {
                Next::Nothing => {}
                Next::Sleep(time) => {
                    let nap = Nap { inner: Arc::clone(&self.inner), part: Arc::clone(&self.part), key };
                    drop(tokio::spawn(nap.sleep(time)));
                }
                Next::Fail(waiters, error) => {
                    waiters.into_iter().for_each(|waiter| waiter.answer(Err(error.clone())));
                }
            }
        }
    }
}

impl<S: CasStore> Drop for Worker<S> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.part.lost(&self.aboard);
        }
    }
}

/// A key that waits until it is tried again; woken at the latest when the task is dropped.
struct Nap<S: CasStore> {
    inner: Arc<Inner<S>>,
    part: Arc<Part>,
    key: StorageKey,
}

impl<S: CasStore> Nap<S> {
    async fn sleep(self, time: Duration) {
        sleep(time).await;
    }
}

impl<S: CasStore> Drop for Nap<S> {
    fn drop(&mut self) {
        if let Some(runtime) = self.part.wake(self.key.clone(), &self.inner.config) {
            start(&runtime, Arc::clone(&self.inner), Arc::clone(&self.part));
        }
    }
}
