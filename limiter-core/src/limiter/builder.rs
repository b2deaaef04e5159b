use super::{Ask, Error, Inner, RateLimiter};
use crate::backend::Backend;
use crate::layer::{
    BreakerConfig, CoalesceConfig, DeadlineConfig, DegradeConfig, DenyCacheConfig, OnOutage, StandardConfig,
    layered,
};
use crate::rule::Rule;
use crate::time::{Every, Timestamp};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

/// A [`RateLimiter`] in the making.
///
/// # Example: numbers for a store that is near and a service of eight instances
/// ```
/// use limiter_core::{DenyCacheConfig, Memory, OnOutage, RateLimiter, Rule};
/// use std::num::NonZeroU32;
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = RateLimiter::builder(Memory::new())
///     .rule(Rule::new("user", "100/minute"))
///     .deadline(Duration::from_millis(20))
///     .on_outage(OnOutage::Local { instances: NonZeroU32::try_from(8)? })
///     .deny_cache(DenyCacheConfig::new().hold(Duration::from_millis(250)))
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder limits nothing until it builds"]
pub struct RateLimiterBuilder {
    backend: Arc<dyn Ask>,
    namespace: String,
    rules: Vec<Rule>,
    is_as_it_is: bool,
    on_outage: OnOutage,
    degrade: DegradeConfig,
    deadline: DeadlineConfig,
    layers: StandardConfig,
    clock: Option<super::Clock>,
}

impl RateLimiterBuilder {
    pub(super) fn new(backend: Arc<dyn Ask>) -> Self {
        Self {
            backend,
            namespace: RateLimiter::DEFAULT_NAME.to_owned(),
            rules: Vec::new(),
            is_as_it_is: false,
            on_outage: OnOutage::default(),
            degrade: DegradeConfig::new(),
            deadline: DeadlineConfig::new(),
            layers: StandardConfig::new(),
            clock: None,
        }
    }

    /// What keeps this application's states apart from others' in one store; by default
    /// [`RateLimiter::DEFAULT_NAME`]. Names come from configuration: each with each rule's is kept as long as the process.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// One more rule; a request is granted only if all rules admit it, and else consumes from none.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// What is answered when the store gives no answer; by default limits of this limiter's own, as if there were no other
    /// instance, so that `N` instances that are cut off admit up to `N` times the limit.
    pub fn on_outage(mut self, on_outage: OnOutage) -> Self {
        self.on_outage = on_outage;
        self
    }

    /// The most keys that the limits in this process remember by themselves, at about 100 bytes; 1,000,000.
    pub fn local_keys(mut self, keys: NonZeroUsize) -> Self {
        self.degrade = self.degrade.local_keys(keys);
        self
    }

    /// The most that a decision is waited for; 50 ms.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = self.deadline.decision(limit);
        self
    }

    /// The most that [`reset`](RateLimiter::reset) and [`ready`](RateLimiter::ready) take; a second.
    pub fn upkeep_deadline(mut self, limit: Duration) -> Self {
        self.deadline = self.deadline.upkeep(limit);
        self
    }

    /// When a store that fails is left alone, and how it is looked whether it is back.
    pub fn breaker(mut self, config: BreakerConfig) -> Self {
        self.layers = self.layers.breaker(config);
        self
    }

    /// How many denials are remembered, and for how long.
    pub fn deny_cache(mut self, config: DenyCacheConfig) -> Self {
        self.layers = self.layers.deny_cache(config);
        self
    }

    /// How many callers' requests travel together, where the store does not combine them by itself.
    pub fn coalesce(mut self, config: CoalesceConfig) -> Self {
        self.layers = self.layers.coalesce(config);
        self
    }

    /// Takes the backend as it is, without any layer: for those who put their own around a store.
    pub fn as_is(mut self) -> Self {
        self.is_as_it_is = true;
        self
    }

    /// Virtual time, for tests: every request carries this clock's instant instead of the store's.
    pub fn clock(mut self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        self.clock = Some(Box::new(clock));
        self
    }

    /// The limiter.
    ///
    /// # Errors
    /// No rule, two of one name, a name that is too long, or a quota that is refused.
    pub fn build(self) -> Result<RateLimiter, Error> {
        let Self { backend, namespace, rules, is_as_it_is, on_outage, degrade, deadline, layers, clock } =
            self;
        let layers = layers.degrade(degrade.on_outage(on_outage)).deadline(deadline);
        let backend = if is_as_it_is { backend } else { layered(backend, layers) };
        if rules.is_empty() {
            return Err(Error::NoRule);
        }
        for (i, rule) in rules.iter().enumerate() {
            if rules[..i].iter().any(|earlier| earlier.name() == rule.name()) {
                return Err(Error::RepeatedRule(rule.name().to_owned()));
            }
        }
        let rules = rules.into_iter().map(|rule| {
            let rule = rule.activate(&namespace)?;
            backend.accepts(&rule.quota())?;
            Ok(rule)
        });
        let rules = rules.collect::<Result<Box<[_]>, Error>>()?;
        let plain = clock.is_none() && matches!(&*rules, [rule] if rule.is_plain());
        Ok(RateLimiter {
            inner: Arc::new(Inner { rules, plain, backend, on_outage, clock, warnings: Every::default() }),
        })
    }
}

impl fmt::Debug for RateLimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, namespace, rules, is_as_it_is, on_outage, .. } = self;
        f.debug_struct("RateLimiterBuilder")
            .field("store", &backend.name())
            .field("namespace", namespace)
            .field("rules", rules)
            .field("as_is", is_as_it_is)
            .field("on_outage", on_outage)
            .finish_non_exhaustive()
    }
}
