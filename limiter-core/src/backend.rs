//! The contract of everything that decides.

use crate::decision::Verdict;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::key::StorageKey;
use crate::metric::Figure;
use crate::quota::{Quota, QuotaError};
use crate::request::Request;
use async_trait::async_trait;
use std::pin::Pin;
use std::sync::Arc;

/// Everything that decides: a store, the in-process map, and each layer around another backend.
///
/// Object safe. A wrapper which forgets to forward a method does not compile, but for [`decide_one`](Self::decide_one),
/// whose default is right of any backend. Conveniences stand on [`RateLimiter`](crate::RateLimiter).
///
/// # Atomicity
/// Each request is decided in one step: its checks are all admitted and all consume, or none does. No
/// interleaving with other requests, of any process, admits more than deciding them one after another would.
///
/// # Example: a layer that denies nobody yet, and counts whom the limits would deny
/// ```
/// use async_trait::async_trait;
/// use limiter_core::metric::Figure;
/// use limiter_core::{Backend, BackendError, Locality, Memory, Quota, QuotaError, RateLimiter, Request, Shard};
/// use limiter_core::{StorageKey, Verdict};
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::time::Duration;
///
/// struct Shadow<B> {
///     inner: B,
///     denied: Arc<AtomicU64>,
/// }
///
/// impl<B> Shadow<B> {
///     fn let_pass(&self, verdict: Verdict) -> Verdict {
///         if verdict.allowed() {
///             return verdict;
///         }
///         self.denied.fetch_add(1, Ordering::Relaxed);
///         let mut decisions = verdict.decisions().to_vec();
///         decisions.iter_mut().for_each(|decision| decision.allowed = true);
///         decisions.into_iter().collect()
///     }
/// }
///
/// #[async_trait]
/// impl<B: Backend> Backend for Shadow<B> {
///     async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
///         let answers = self.inner.decide(batch).await.into_iter();
///         answers.map(|answer| answer.map(|verdict| self.let_pass(verdict))).collect()
///     }
///
///     fn decide_now(&self, request: &Request) -> Option<Result<Verdict, BackendError>> {
///         Some(self.inner.decide_now(request)?.map(|verdict| self.let_pass(verdict)))
///     }
///
///     fn shard(&self, request: &Request) -> Shard {
///         self.inner.shard(request)
///     }
///
///     fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
///         self.inner.accepts(quota)
///     }
///
///     async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
///         self.inner.reset(keys).await
///     }
///
///     async fn ready(&self) -> Result<(), BackendError> {
///         self.inner.ready().await
///     }
///
///     fn locality(&self) -> Locality {
///         self.inner.locality()
///     }
///
///     fn may_forget(&self) -> bool {
///         self.inner.may_forget()
///     }
///
///     fn name(&self) -> &'static str {
///         self.inner.name()
///     }
///
///     fn report(&self, tell: &mut dyn FnMut(Figure)) {
///         self.inner.report(tell);
///     }
/// }
///
/// # async fn handle() -> Result<(), limiter_core::Error> {
/// let denied = Arc::new(AtomicU64::new(0));
/// let shadow = Shadow { inner: Memory::new(), denied: Arc::clone(&denied) };
/// let limiter = RateLimiter::new(1, Duration::from_secs(60), shadow)?;
/// assert!(limiter.allow("user:42").await && limiter.allow("user:42").await);
/// assert_eq!(denied.load(Ordering::Relaxed), 1);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(handle()).unwrap();
/// ```
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Answers every request of `batch`, each in one atomic step, in order as each key sees them.
    ///
    /// To be correct:
    /// - the reply has one answer per request, in the batch's order;
    /// - a verdict has one decision per check, in the request's order, and all checks are evaluated, also
    ///   after one denies;
    /// - a denied request has consumed nothing, from any of its checks; a peek (cost 0) writes nothing;
    /// - [`Request::instant`] decides where it is given, the store's own clock where it is not;
    /// - a request still unsent at its deadline is answered `NotApplied` and never sent.
    ///
    /// # Units
    /// Costs are whole permits. Instants are us since the Unix epoch; durations are whole us, rounded up.
    ///
    /// # Errors
    /// A denial is a verdict; an error means that there is no answer. Its
    /// [`effect`](BackendError::effect) says whether the request may have been recorded.
    ///
    /// # Cancel safety
    /// Dropping the future may leave requests recorded; none is recorded twice, and no other caller notices.
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>>;

    /// Answers one request as [`decide`](Self::decide) answers a batch of it, which it does by default. A layer that asks
    /// its inner backend by this makes no list and no future on the heap: through all of them a request is a single one.
    ///
    /// It is written `fn .. -> impl Future + Send { async move { .. } }`, as `async_trait` makes another signature of an
    /// `async fn`. Of a `dyn Backend` it cannot be asked, so that an `Arc` of any backend has the default.
    fn decide_one(&self, request: &Request) -> impl Future<Output = Result<Verdict, BackendError>> + Send
    where
        Self: Sized,
    {
        async move {
            let answers = self.decide(std::slice::from_ref(request)).await;
            answers.into_iter().next().unwrap_or_else(|| Err(unanswered(self.name())))
        }
    }

    /// The answer, where it can be given without waiting: in-process state, a remembered denial, an open
    /// breaker. `None`: ask [`decide`](Self::decide); nothing has changed.
    fn decide_now(&self, request: &Request) -> Option<Result<Verdict, BackendError>>;

    /// Which part of the store this request needs.
    fn shard(&self, request: &Request) -> Shard;

    /// Whether this store can keep such a quota; asked when a limiter is built or its quota changes.
    ///
    /// # Errors
    /// [`QuotaError::Store`], with what stands against it.
    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError>;

    /// Forgets the state of these keys. Safe to repeat; a key without a state is none the less reset.
    ///
    /// # Errors
    /// As [`decide`](Self::decide); the keys may have been reset in part.
    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError>;

    /// Whether the store can be used as it is; asked by a service's readiness probe.
    ///
    /// # Errors
    /// What is wrong, in words for an operator.
    async fn ready(&self) -> Result<(), BackendError>;

    /// How far away the answers are, and so what a limiter puts in front.
    fn locality(&self) -> Locality;

    /// Whether the store may lose live states while it runs, as one that evicts does: denials are then remembered for as
    /// long as they last.
    fn may_forget(&self) -> bool;

    /// The store's name, for metrics and errors.
    fn name(&self) -> &'static str;

    /// Tells what it holds now and what it has done so far, each [`Figure`] once; a wrapper tells its own and passes
    /// the call on. Asked about once a second and for each export: it may take locks, for microseconds, and never
    /// waits for the store.
    fn report(&self, tell: &mut dyn FnMut(Figure));
}

/// How far away a backend's answers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Locality {
    /// In this process: [`Backend::decide_now`] answers every request, and nothing can be slow, wrong or gone.
    InProcess,
    /// Elsewhere, in one trip per call: it pays to carry many callers' requests together.
    Remote,
    /// Elsewhere, and what many callers ask is combined already.
    Combining,
}

/// A part of a store that fails by itself, such as one server of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shard {
    /// One part, by number; 0 where there is no other.
    One(u32),
    /// Several parts at once.
    Many,
}

/// What breaks the contract: no answer at all.
#[cold]
pub(crate) fn unanswered(backend: &'static str) -> BackendError {
    BackendError::new(ErrorKind::Unexpected, Effect::Unknown, backend, "decide", "no answer")
}

#[async_trait]
impl<B: Backend + ?Sized> Backend for Arc<B> {
    // Written out, as the macro would box the inner future once more.
    fn decide<'s, 'b, 'f>(&'s self, batch: &'b [Request]) -> Deciding<'f>
    where
        's: 'f,
        'b: 'f,
    {
        (**self).decide(batch)
    }

    fn decide_now(&self, request: &Request) -> Option<Result<Verdict, BackendError>> {
        (**self).decide_now(request)
    }

    fn shard(&self, request: &Request) -> Shard {
        (**self).shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        (**self).accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        (**self).reset(keys).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        (**self).ready().await
    }

    fn locality(&self) -> Locality {
        (**self).locality()
    }

    fn may_forget(&self) -> bool {
        (**self).may_forget()
    }

    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        (**self).report(tell);
    }
}

/// What the trait's `decide` returns.
pub(crate) type Deciding<'f> = Pin<Box<dyn Future<Output = Vec<Result<Verdict, BackendError>>> + Send + 'f>>;
