//! Observing beside the store: what it alone does.

use super::handles::{Handles, Timer, counter, histogram, quietly};
use super::notice::{DROPPED, KINDS, Notices};
use crate::backend::{Backend, Locality, Shard};
use crate::decision::Verdict;
use crate::error::BackendError;
use crate::key::StorageKey;
use crate::metric::{self, Figure};
use crate::quota::{Quota, QuotaError};
use crate::request::Request;
use ::metrics::{Counter, Histogram};
use async_trait::async_trait;
use std::fmt;
use tokio::time::Instant;
use tracing::{Instrument, Span, debug_span, field};

/// Tells the application's recorder and its `tracing` subscriber of each trip to the store: the innermost layer.
///
/// Each trip is a span at debug level, `limiter_trip`, of the form that OpenTelemetry gives to calls of a database: a
/// client's, with the store's kind, the operation, how many requests it carries, and the kind of its error. It says
/// neither where the store is nor what was asked: an address may hold a password, and a key is a caller's.
///
/// A failed trip is one failure, however many requests it carried, and a warning in the log, at most every 10 s of each
/// kind. A trip that is given up, as a store that hangs makes them, counts as an error of the kind `dropped`, with the
/// time that it took until then.
///
/// An answer that needs no wait is no trip. The [table of metrics](crate::metric) says which there are; when a recorder
/// may be installed, what is sampled and what it costs stands at [`Observe`](super::Observe).
///
/// # Errors
/// The inner backend's.
///
/// # Cancel safety
/// The inner backend's.
///
/// # Example
/// ```
/// use limiter_core::{Coalesce, CoalesceConfig, Memory, Observe, ObserveTrips, RateLimiter, Rule};
///
/// let store = Coalesce::new(ObserveTrips::new(Memory::new()), CoalesceConfig::new());
/// let limiter = RateLimiter::builder(Observe::new(store)).as_is().rule(Rule::new("user", "100/m")).build()?;
/// # Ok::<(), limiter_core::Error>(())
/// ```
pub struct ObserveTrips<B> {
    inner: B,
    recording: Handles<Recording>,
    notices: Notices,
}

/// What a recorder is told by.
struct Recording {
    decide: Timer,
    reset: Timer,
    ready: Timer,
    requests: Histogram,
    /// By the order of [`KINDS`].
    failed: [Counter; KINDS.len()],
}

#[derive(Clone, Copy)]
enum Operation {
    Decide,
    Reset,
    Ready,
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Reset => "reset",
            Self::Ready => "ready",
        }
    }

    fn timer(self, recording: &Recording) -> &Timer {
        match self {
            Self::Decide => &recording.decide,
            Self::Reset => &recording.reset,
            Self::Ready => &recording.ready,
        }
    }
}

impl Recording {
    fn new(store: &'static str, decide: Timer) -> Self {
        metric::describe_all();
        let timer = |operation: Operation| Timer::new(&metric::TRIP_SECONDS.key(&[store, operation.name()]));
        Self {
            decide,
            reset: timer(Operation::Reset),
            ready: timer(Operation::Ready),
            requests: histogram(&metric::TRIP_REQUESTS, &[store]),
            failed: KINDS.map(|kind| counter(&metric::TRIP_ERRORS, &[store, kind])),
        }
    }
}

impl<B: Backend> ObserveTrips<B> {
    /// The layer around `inner`, a store.
    #[must_use]
    pub fn new(inner: B) -> Self {
        let timer = metric::TRIP_SECONDS.key(&[inner.name(), Operation::Decide.name()]);
        Self { recording: Handles::new(timer, inner.name()), inner, notices: Notices::default() }
    }

    fn depart(&self, operation: Operation, requests: usize) -> Trip<'_> {
        let store = self.inner.name();
        let recording = self.recording.get(|decide| Recording::new(store, decide));
        let recording = recording.map(|recording| (recording, Instant::now()));
        let span = debug_span!(
            "limiter_trip",
            otel.kind = "client",
            db.system.name = system(store),
            db.operation.name = operation.name(),
            db.operation.batch.size = requests,
            "error.type" = field::Empty,
        );
        Trip { notices: &self.notices, recording, operation, requests, span, landed: false }
    }
}

/// The name that OpenTelemetry has for a store of this name.
fn system(store: &'static str) -> &'static str {
    if store == "postgres" { "postgresql" } else { store }
}

/// A trip that is under way; dropped before it landed, it was given up.
struct Trip<'a> {
    notices: &'a Notices,
    /// And since when.
    recording: Option<(&'a Recording, Instant)>,
    operation: Operation,
    requests: usize,
    span: Span,
    landed: bool,
}

impl Trip<'_> {
    fn landed<'e>(mut self, errors: impl Iterator<Item = &'e BackendError>) {
        self.landed = true;
        let mut failed = [false; KINDS.len()];
        for error in errors {
            let kind = error.kind().index();
            // Of the errors of one kind, the first: a failed trip has one for each of its requests.
            if !std::mem::replace(&mut failed[kind], true) {
                self.span.record("error.type", KINDS[kind]);
                self.span.in_scope(|| self.notices.failed("a trip to the store failed", error));
            }
        }
        self.record(&failed);
    }

    fn record(&self, failed: &[bool; KINDS.len()]) {
        let Some((recording, start)) = self.recording else { return };
        quietly(|| {
            self.operation.timer(recording).record(start.elapsed(), 1);
            if let Operation::Decide = self.operation {
                recording.requests.record(u32::try_from(self.requests).unwrap_or(u32::MAX));
            }
            for (counter, _) in recording.failed.iter().zip(failed).filter(|(_, failed)| **failed) {
                counter.increment(1);
            }
        });
    }
}

impl Drop for Trip<'_> {
    fn drop(&mut self) {
        if !self.landed {
            let mut failed = [false; KINDS.len()];
            failed[DROPPED] = true;
            self.span.record("error.type", KINDS[DROPPED]);
            self.record(&failed);
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for ObserveTrips<B> {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        let trip = self.depart(Operation::Decide, batch.len());
        let answers = self.inner.decide(batch).instrument(trip.span.clone()).await;
        trip.landed(answers.iter().filter_map(|answer| answer.as_ref().err()));
        answers
    }

    fn decide_one(&self, request: &Request) -> impl Future<Output = Result<Verdict, BackendError>> + Send {
        async move {
            let trip = self.depart(Operation::Decide, 1);
            let answer = self.inner.decide_one(request).instrument(trip.span.clone()).await;
            trip.landed(answer.as_ref().err().into_iter());
            answer
        }
    }

    fn decide_now(&self, request: &Request) -> Option<Result<Verdict, BackendError>> {
        self.inner.decide_now(request)
    }

    fn shard(&self, request: &Request) -> Shard {
        self.inner.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.inner.accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        let trip = self.depart(Operation::Reset, keys.len());
        let done = self.inner.reset(keys).instrument(trip.span.clone()).await;
        trip.landed(done.as_ref().err().into_iter());
        done
    }

    async fn ready(&self) -> Result<(), BackendError> {
        let trip = self.depart(Operation::Ready, 0);
        let ready = self.inner.ready().instrument(trip.span.clone()).await;
        trip.landed(ready.as_ref().err().into_iter());
        ready
    }

    fn locality(&self) -> Locality {
        self.inner.locality()
    }

    fn may_forget(&self) -> bool {
        self.inner.may_forget()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        self.inner.report(tell);
    }
}

impl<B: Backend> fmt::Debug for ObserveTrips<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObserveTrips").field("store", &self.inner.name()).finish_non_exhaustive()
    }
}
