//! Observing: what was decided, how long it took, and what the layers below hold.

mod gauges;
mod handles;
mod notice;
mod rules;
mod trips;

pub use trips::ObserveTrips;

use crate::backend::{Backend, Locality, Shard};
use crate::error::BackendError;
use crate::key::StorageKey;
use crate::layer::Answer;
use crate::metric::{self, Figure};
use crate::quota::{Quota, QuotaError};
use crate::request::Request;
use crate::time::Timestamp;
use async_trait::async_trait;
use gauges::Gauges;
use handles::{Handles, Timer, quietly};
use notice::Notices;
use rules::Rules;
use std::fmt;
use std::slice;
use tokio::time::Instant;

/// Tells the application's recorder of metrics and its `tracing` subscriber what is decided: the outermost layer.
///
/// The [table of metrics](crate::metric) says which there are. Beside the store stands [`ObserveTrips`], which shows
/// what the store alone does.
///
/// # Recorder
/// One of the [`metrics`](https://docs.rs/metrics) crate, installed at any time: handles are made at the first
/// decision that finds one, and then kept, so that a decision neither allocates nor looks one up by name. What was
/// decided before is not in the counters. Recorders that are local to a thread count if the first decision
/// runs there. One that takes neither histograms nor gauges is taken for none. A recorder that panics costs the number
/// that it was told, and no answer.
///
/// Gauges, and counters of what is below, are sampled: at most once a second, by the decision that comes by then, and by
/// [`RateLimiter::report`](crate::RateLimiter::report), which whoever exports may call before. A thread of our own
/// would need a runtime or a way to end it, and tell of nothing while nothing is decided. Several limiters of one
/// store add up: of what their layers hold, and of what the store holds where each has a store of its own. Clones of one
/// store are told of by each limiter, so that limiters which share a process are better one limiter of several rules.
///
/// # Log
/// A warning for each kind of error, and for decisions made without the store, at most every 10 s each, which tells
/// how many there were since the last. No caller's key is in any of them.
///
/// # Cost
/// Without a recorder a few nanoseconds; with one, a counter per check, and a histogram and two looks at the clock where
/// the caller has to wait.
///
/// # Errors
/// The inner backend's.
///
/// # Cancel safety
/// The inner backend's. A request that is dropped before its answer counts as an error of the kind `dropped`.
///
/// # Example
/// ```
/// use limiter_core::{Memory, RateLimiter};
/// use metrics_util::debugging::DebuggingRecorder;
/// use std::time::Duration;
///
/// let recorder = DebuggingRecorder::new();
/// // A limiter puts it around every store.
/// let limiter = RateLimiter::new(1, Duration::from_secs(60), Memory::new())?;
/// metrics::with_local_recorder(&recorder, || [(); 2].map(|()| limiter.check_now("user:42")));
/// let metrics = recorder.snapshotter().snapshot().into_vec();
/// assert!(metrics.iter().any(|(key, ..)| key.key().name() == "limiter_decisions_total"));
/// # Ok::<(), limiter_core::Error>(())
/// ```
pub struct Observe<B> {
    inner: B,
    /// Whether no answer from below can be an error, or made without the store: [`Locality::InProcess`].
    in_process: bool,
    recording: Handles<Recording>,
    notices: Notices,
}

/// What a recorder is told by.
struct Recording {
    waited: Timer,
    rules: Rules,
    gauges: Gauges,
}

impl Recording {
    fn new(store: &'static str, waited: Timer) -> Self {
        metric::describe_all();
        Self { waited, rules: Rules::new(store), gauges: Gauges::default() }
    }
}

impl<B: Backend> Observe<B> {
    /// The layer around `inner`.
    #[must_use]
    pub fn new(inner: B) -> Self {
        let recording = Handles::new(metric::DECISION_SECONDS.key(&[inner.name()]), inner.name());
        let in_process = inner.locality() == Locality::InProcess;
        Self { inner, in_process, recording, notices: Notices::default() }
    }

    #[inline]
    fn recording(&self) -> Option<&Recording> {
        self.recording.get(|waited| Recording::new(self.inner.name(), waited))
    }

    fn call<'a>(&'a self, batch: &'a [Request]) -> Call<'a, B> {
        Call {
            observe: self,
            batch,
            recording: self.recording().map(|recording| (recording, Instant::now())),
        }
    }

    #[inline]
    fn answered(&self, recording: Option<&Recording>, request: &Request, answer: &Answer) {
        match answer {
            Err(error) => self.notices.failed("no answer", error),
            Ok(verdict) if rules::is_degraded(verdict) => self.notices.degraded(self.inner.name()),
            Ok(_) => {}
        }
        if let Some(recording) = recording {
            quietly(|| recording.rules.answered(request, answer));
        }
    }

    /// Brings up to date what is sampled, if it is time.
    #[inline]
    fn sample_if_due(&self, recording: Option<&Recording>) {
        if let Some(recording) = recording
            && recording.gauges.is_due(Timestamp::now())
        {
            quietly(|| recording.gauges.sample_if_free(|tell| self.inner.report(tell)));
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for Observe<B> {
    async fn decide(&self, batch: &[Request]) -> Vec<Answer> {
        let mut call = self.call(batch);
        let answers = self.inner.decide(batch).await;
        call.answered(&answers);
        answers
    }

    fn decide_one(&self, request: &Request) -> impl Future<Output = Answer> + Send {
        async move {
            let mut call = self.call(slice::from_ref(request));
            let answer = self.inner.decide_one(request).await;
            call.answered(slice::from_ref(&answer));
            answer
        }
    }

    #[inline]
    fn decide_now(&self, request: &Request) -> Option<Answer> {
        let recording = self.recording();
        if self.in_process && recording.is_none() {
            // There is nothing to tell and nobody to tell it to. The answer is written where it is wanted, as a copy of
            // what was just written waits for it.
            return self.inner.decide_now(request);
        }
        let answer = self.inner.decide_now(request);
        if let Some(answer) = &answer {
            self.answered(recording, request, answer);
            self.sample_if_due(recording);
        }
        answer
    }

    fn shard(&self, request: &Request) -> Shard {
        self.inner.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.inner.accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        self.inner.reset(keys).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.inner.ready().await
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

    /// Tells what is below, and the recorder too, whenever it was told last.
    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        let Some(recording) = self.recording() else { return self.inner.report(tell) };
        let mut figures = Vec::new();
        self.inner.report(&mut |figure| figures.push(figure));
        quietly(|| recording.gauges.sample(|told| figures.iter().for_each(|figure| told(*figure))));
        figures.into_iter().for_each(tell);
    }
}

/// Callers that wait; dropped while it still has their batch, they left.
struct Call<'a, B: Backend> {
    observe: &'a Observe<B>,
    batch: &'a [Request],
    /// And since when.
    recording: Option<(&'a Recording, Instant)>,
}

impl<B: Backend> Call<'_, B> {
    fn answered(&mut self, answers: &[Answer]) {
        let batch = std::mem::take(&mut self.batch);
        let recording = self.recording.map(|(recording, start)| {
            quietly(|| recording.waited.record(start.elapsed(), batch.len()));
            recording
        });
        // An answer that is missing is for whoever asked to complain of.
        for (request, answer) in batch.iter().zip(answers) {
            self.observe.answered(recording, request, answer);
        }
        self.observe.sample_if_due(recording);
    }
}

impl<B: Backend> Drop for Call<'_, B> {
    fn drop(&mut self) {
        if let Some((recording, start)) = self.recording.filter(|_| !self.batch.is_empty()) {
            quietly(|| {
                self.batch.iter().for_each(|request| recording.rules.dropped(request));
                recording.waited.record(start.elapsed(), self.batch.len());
            });
        }
    }
}

impl<B: Backend> fmt::Debug for Observe<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observe").field("store", &self.inner.name()).finish_non_exhaustive()
    }
}
