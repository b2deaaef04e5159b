//! The front: turns a caller and the rules into a request, and hands it to one backend.

mod ask;
mod builder;
mod error;
mod pending;
mod verdict;

pub(crate) use ask::Ask;
pub use builder::RateLimiterBuilder;
pub use error::Error;
pub use verdict::{RuleDecision, RulesVerdict};

use crate::algorithm::Algorithm;
use crate::backend::Backend;
use crate::decision::Decision;
use crate::layer::OnOutage;
use crate::metric::Figure;
use crate::quota::{Quota, QuotaError};
use crate::request::Check;
use crate::rule::ActiveRule;
use crate::scope::{Caller, Scope};
use crate::time::{Every, Timestamp};
use pending::Pending;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Decides who may go ahead. When the store gives no answer, limits **in this process** decide by default, as if there
/// were no other instance, so that N instances which are cut off together admit up to N times the limit;
/// [`RateLimiterBuilder::on_outage`] says otherwise. [`Decision::origin`] says who decided.
///
/// Around a store that is not in this process it puts layers ([`standard`](crate::standard)): no call outlives its
/// deadline, a store that fails is left alone until it is back, denials are remembered, and many callers' requests travel
/// together.
///
/// Cheap to clone; clones share rules and backend, and the limits that hold without the store: other limiters of one process
/// have their own. Usable from any number of threads and tasks.
///
/// # Runtime
/// Trips that carry many callers, deadlines and probes are in tasks of a tokio runtime of one of the callers. One that is
/// driven only now and then, as by `block_on` for each decision of many threads, holds up those whom it carries until their
/// deadline.
///
/// # Panics
/// Around a store that is not in this process, in a tokio runtime that was built without timers.
///
/// # Examples
/// The smallest:
/// ```
/// use limiter_core::{Memory, RateLimiter};
/// use std::time::Duration;
///
/// # async fn handle() -> Result<(), limiter_core::Error> {
/// let limiter = RateLimiter::new(100, Duration::from_secs(60), Memory::new())?;
/// if limiter.allow("user:42").await {
///     // serve
/// }
/// # Ok(())
/// # }
/// ```
/// Three rules, decided in one step:
/// ```
/// use limiter_core::{Caller, Memory, Quota, RateLimiter, Rule, Scope};
///
/// # async fn handle() -> Result<(), limiter_core::Error> {
/// let limiter = RateLimiter::builder(Memory::new())
///     .namespace("shop")
///     .rule(Rule::new("global", Quota::per_second(1_000)).scope(Scope::global()))
///     .rule(Rule::new("user", "100/minute burst 20").scope(Scope::per("user")))
///     .rule(Rule::new("search", "5 per 10s").scope(Scope::per("user").and("endpoint")))
///     .build()?;
/// let caller = Caller::new().with("user", "42").with("endpoint", "/search");
/// let decision = limiter.check(caller).await?;
/// assert_eq!((decision.allowed, decision.limit, decision.remaining), (true, 5, 4));
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(handle()).unwrap();
/// ```
#[derive(Clone)]
pub struct RateLimiter {
    inner: Arc<Inner>,
}

struct Inner {
    rules: Box<[ActiveRule]>,
    /// Whether there is one rule, whose own quota counts by [`Scope::KEY`], at the store's own time: the usual
    /// limiter, which needs nothing but the key to be looked at.
    plain: bool,
    backend: Arc<dyn Ask>,
    on_outage: OnOutage,
    clock: Option<Clock>,
    warnings: Every,
}

/// Between two warnings.
const WARNINGS: Duration = Duration::from_secs(10);

/// Virtual time, for tests.
type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

impl RateLimiter {
    /// The name of the one rule, and of the namespace, of a limiter that was not given others.
    pub const DEFAULT_NAME: &'static str = "default";

    /// A limiter of `limit` permits per `window` for each key: a token bucket.
    ///
    /// All limiters made so share one rule's states in the same store. Give them names by
    /// [`builder`](Self::builder) where their keys could meet.
    ///
    /// # Errors
    /// A quota that cannot be enforced exactly, or that the backend cannot keep.
    pub fn new(limit: u64, window: Duration, backend: impl Backend) -> Result<Self, Error> {
        let rule = crate::Rule::new(Self::DEFAULT_NAME, Quota::new(limit, window));
        Self::builder(backend).rule(rule).build()
    }

    /// A limiter of any rules.
    pub fn builder(backend: impl Backend) -> RateLimiterBuilder {
        RateLimiterBuilder::new(Arc::new(backend))
    }

    /// Whether the caller may go ahead, at cost 1. Never an error, and never later than the deadline: without an answer
    /// from the store it is as [`OnOutage`] says. What is not the store's doing is denied: a caller without a part that
    /// a rule counts by, and a quota chosen for it that the store cannot keep. Outside of a tokio runtime nothing cuts a
    /// wait short but the backend itself.
    ///
    /// With a backend that is used [as it is](RateLimiterBuilder::as_is), which may give errors, these admit under
    /// [`OnOutage::Allow`] and else deny.
    ///
    /// # Cancel safety
    /// As [`check`](Self::check).
    pub async fn allow<'c>(&self, caller: impl Into<Caller<'c>> + Send) -> bool {
        match self.check(caller).await {
            Ok(decision) => decision.allowed,
            Err(Error::Backend(_)) => self.inner.on_outage == OnOutage::Allow,
            Err(error) => {
                self.denied_for(&error);
                false
            }
        }
    }

    /// Nobody else hears of an error that is none of the store's: a caller without a part that a rule counts by.
    #[cold]
    fn denied_for(&self, error: &Error) {
        if self.inner.warnings.is_due(WARNINGS, Timestamp::now()) {
            tracing::warn!(%error, "a request is denied, as it cannot be decided");
        }
    }

    /// Decides at cost 1, and says everything.
    ///
    /// Of several rules, the decision is that of the one that binds: see [`Verdict::summary`](crate::Verdict::summary).
    ///
    /// # Errors
    /// The store gave no answer, the caller lacks a part that a rule counts by, or has a quota that the store cannot keep.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the request recorded; never twice.
    #[inline]
    pub fn check<'c>(
        &self,
        caller: impl Into<Caller<'c>> + Send,
    ) -> impl Future<Output = Result<Decision, Error>> + Send {
        self.check_n(caller, 1)
    }

    /// Decides at any cost, such as bytes; 0 is a peek.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    #[inline]
    pub fn check_n<'c>(
        &self,
        caller: impl Into<Caller<'c>> + Send,
        cost: u64,
    ) -> impl Future<Output = Result<Decision, Error>> + Send {
        Pending::new(self, caller, cost)
    }

    /// Where the caller stands; consumes nothing. It asks for no permit, and so is always allowed: what there is says
    /// `remaining`, and `reset_after` when all is back.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    #[inline]
    pub fn peek<'c>(
        &self,
        caller: impl Into<Caller<'c>> + Send,
    ) -> impl Future<Output = Result<Decision, Error>> + Send {
        self.check_n(caller, 0)
    }

    /// Decides at any cost, and says for each rule which quota decided, and what.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_rules<'c>(
        &self,
        caller: impl Into<Caller<'c>> + Send,
        cost: u64,
    ) -> impl Future<Output = Result<RulesVerdict, Error>> + Send {
        Pending::new(self, caller, cost)
    }

    /// The decision at cost 1 where it can be given without waiting, for callers without a runtime: always
    /// with [`Memory`](crate::Memory). `None`: it cannot, or it is an error; ask [`check`](Self::check).
    pub fn check_now<'c>(&self, caller: impl Into<Caller<'c>>) -> Option<Decision> {
        self.at_once(caller.into(), 1, Some, |_asking| None)
    }

    /// Waits for a permit, at most `max_wait`: for its turn, and for `retry_after` where it is denied. Asking comes on
    /// top: at most twice the deadline of a call, or as long as the store takes for a limiter that is built
    /// [`as_is`](RateLimiterBuilder::as_is).
    ///
    /// Tells by itself when the wait would be longer, without waiting, and before it takes a permit: it looks at
    /// how long a leaky bucket's queue is, then takes its place. Under the other algorithms nobody has a place: whoever asks
    /// first after a permit is there has it, and the others wait anew, as long as there is time. Of many that look at one time and see the same queue,
    /// those whose place turns out to be too far behind have taken a permit that they do not use.
    ///
    /// # Errors
    /// [`Error::WaitTooLong`]; [`Error::NoRuntime`] outside a tokio runtime, where there is something to wait
    /// for; else as [`check`](Self::check).
    ///
    /// # Panics
    /// There is something to wait for, in a tokio runtime that was built without timers.
    ///
    /// # Cancel safety
    /// Dropping the future while it waits for `retry_after` takes nothing; while it waits for its turn, it
    /// leaves the permit taken.
    pub async fn acquire<'c>(
        &self,
        caller: impl Into<Caller<'c>> + Send,
        max_wait: Duration,
    ) -> Result<Decision, Error> {
        let caller = caller.into();
        let start = Instant::now();
        let left = || max_wait.saturating_sub(start.elapsed());
        loop {
            let turn = self.turn(&caller).await?;
            if turn > left() {
                return Err(Error::WaitTooLong { wait: Some(start.elapsed() + turn), max: max_wait });
            }
            can_wait(turn)?;
            let decision = self.check(caller.clone()).await?;
            let wait = if decision.allowed { Some(decision.delay) } else { decision.retry_after };
            match wait {
                Some(wait) if wait <= left() => pause(wait).await?,
                wait => {
                    let wait = wait.map(|wait| start.elapsed() + wait);
                    return Err(Error::WaitTooLong { wait, max: max_wait });
                }
            }
            if decision.allowed {
                return Ok(decision);
            }
        }
    }

    /// Forgets the caller under every algorithm of each rule that counts by parts that the caller has. The
    /// rules for everybody are reset by `Caller::new()`, and by no other.
    ///
    /// # Errors
    /// [`Error::NothingToReset`] if there is no such rule; the store gave no answer, in which case the reset
    /// may have been done in part, and was in this process; a full [`Memory`](crate::Memory) counts the caller together
    /// with others, which it does not forget. Safe to repeat.
    pub async fn reset<'c>(&self, caller: impl Into<Caller<'c>> + Send) -> Result<(), Error> {
        let caller = caller.into();
        let keys: Vec<_> = self
            .inner
            .rules
            .iter()
            .filter(|rule| rule.scope.is_global() == caller.is_nobody())
            .filter_map(|rule| Some((rule, rule.scope.key_of(&caller).ok()?)))
            .flat_map(|(rule, key)| rule.keyspaces.all().map(|keyspace| keyspace.key(&key)))
            .collect();
        if keys.is_empty() {
            return Err(Error::NothingToReset(format!("{caller:?}")));
        }
        Ok(self.inner.backend.reset(&keys).await?)
    }

    /// Gives a rule another quota, for all clones, from the next decision on. What was used carries over as
    /// the algorithm defines it; another algorithm starts afresh.
    ///
    /// It holds in this process, until it ends: to change a limit everywhere, each instance is told. Callers for whom
    /// [`Rule::quota_for`](crate::Rule::quota_for) has a quota keep that.
    ///
    /// # Errors
    /// No rule has this name, or the quota is refused; the old quota stays.
    pub fn set_quota<Q>(&self, rule: &str, quota: Q) -> Result<(), Error>
    where
        Q: TryInto<Quota>,
        Q::Error: Into<QuotaError>,
    {
        let known = self.inner.rules.iter().find(|r| &*r.name == rule);
        let rule = known.ok_or_else(|| Error::UnknownRule(rule.to_owned()))?;
        let quota = quota.try_into().map_err(Into::into)?;
        self.inner.backend.accepts(&quota)?;
        rule.set_quota(quota);
        Ok(())
    }

    /// Name, scope and quota of each rule, in the order in which they are checked.
    pub fn rules(&self) -> impl Iterator<Item = (&str, &Scope, Quota)> {
        self.inner.rules.iter().map(|rule| (&*rule.name, &rule.scope, rule.quota()))
    }

    /// What is answered when the store gives no answer.
    #[must_use]
    pub fn on_outage(&self) -> OnOutage {
        self.inner.on_outage
    }

    /// What the layers and the store hold now, and have done so far; metrics are brought up to date as well. For whoever
    /// exports them, right before, and for whoever wants the figures without a recorder.
    #[must_use]
    pub fn report(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        self.inner.backend.report(&mut |figure| figures.push(figure));
        figures
    }

    /// Whether the store can be used as it is.
    ///
    /// # Errors
    /// What is wrong, in words for an operator.
    pub async fn ready(&self) -> Result<(), Error> {
        Ok(self.inner.backend.ready().await?)
    }

    /// How long an admission would wait for its turn now; zero where no rule queues.
    async fn turn(&self, caller: &Caller<'_>) -> Result<Duration, Error> {
        let request = self.request(caller, 0)?;
        let queues = |check: &Check| check.quota.algorithm() == Algorithm::LeakyBucket;
        if !request.checks().iter().any(queues) {
            return Ok(Duration::ZERO);
        }
        let verdict = self.check_rules(caller.clone(), 0).await?;
        let queues = |rule: &&RuleDecision| rule.quota.algorithm() == Algorithm::LeakyBucket;
        let turns = verdict.rules().iter().filter(queues).map(|rule| rule.decision.reset_after);
        Ok(turns.max().unwrap_or_default())
    }
}

async fn pause(wait: Duration) -> Result<(), Error> {
    can_wait(wait)?;
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    Ok(())
}

fn can_wait(wait: Duration) -> Result<(), Error> {
    if wait.is_zero() || tokio::runtime::Handle::try_current().is_ok() {
        Ok(())
    } else {
        Err(Error::NoRuntime)
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rules().map(|(name, scope, quota)| format!("{name}: {quota} {scope}"));
        f.debug_struct("RateLimiter")
            .field("rules", &rules.collect::<Vec<_>>())
            .field("store", &self.inner.backend.name())
            .field("on_outage", &self.inner.on_outage)
            .finish()
    }
}
