//! The layers as they belong together.

use super::{
    Breaker, BreakerConfig, Coalesce, CoalesceConfig, Deadline, DeadlineConfig, Degrade, DegradeConfig,
    DenyCache, DenyCacheConfig, Observe, ObserveTrips,
};
use crate::backend::{Backend, Locality};
use crate::limiter::Ask;
use std::sync::Arc;

/// The numbers of every layer that [`standard`] puts around a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct StandardConfig {
    deny_cache: DenyCacheConfig,
    degrade: DegradeConfig,
    breaker: BreakerConfig,
    deadline: DeadlineConfig,
    coalesce: CoalesceConfig,
}

impl StandardConfig {
    /// Each layer's own defaults.
    pub const fn new() -> Self {
        Self {
            deny_cache: DenyCacheConfig::new(),
            degrade: DegradeConfig::new(),
            breaker: BreakerConfig::new(),
            deadline: DeadlineConfig::new(),
            coalesce: CoalesceConfig::new(),
        }
    }

    /// How many denials are remembered, and for how long.
    pub const fn deny_cache(mut self, config: DenyCacheConfig) -> Self {
        self.deny_cache = config;
        self
    }

    /// What is answered when the store gives no answer.
    pub const fn degrade(mut self, config: DegradeConfig) -> Self {
        self.degrade = config;
        self
    }

    /// When a store that fails is left alone.
    pub const fn breaker(mut self, config: BreakerConfig) -> Self {
        self.breaker = config;
        self
    }

    /// How long callers wait.
    pub const fn deadline(mut self, config: DeadlineConfig) -> Self {
        self.deadline = config;
        self
    }

    /// How requests travel together, where the store does not combine them by itself.
    pub const fn coalesce(mut self, config: CoalesceConfig) -> Self {
        self.coalesce = config;
        self
    }
}

/// Puts the layers around a store: from outside [`Observe`], [`DenyCache`], [`Degrade`], [`Breaker`], [`Deadline`],
/// [`Coalesce`], [`ObserveTrips`]. It is what a [`RateLimiter`](crate::RateLimiter) does by default.
///
/// As the store is far ([`Backend::locality`]): one in this process gets [`Observe`] alone; one that combines requests by
/// itself goes without [`Coalesce`]. A limiter takes it [as it is](crate::RateLimiterBuilder::as_is), or puts the layers
/// around it once more.
///
/// # Example: a deadline of 20 ms around a store
/// ```
/// use limiter_core::{DeadlineConfig, Memory, Quota, RateLimiter, Rule, StandardConfig, standard};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// let deadline = DeadlineConfig::new().decision(Duration::from_millis(20));
/// let backend = standard(Arc::new(Memory::new()), StandardConfig::new().deadline(deadline));
/// let limiter =
///     RateLimiter::builder(backend).as_is().rule(Rule::new("user", Quota::per_second(10))).build()?;
/// # Ok::<(), limiter_core::Error>(())
/// ```
#[must_use]
pub fn standard(store: Arc<dyn Backend>, config: StandardConfig) -> Arc<dyn Backend> {
    layered(store, config)
}

/// The same, as a limiter asks it.
pub(crate) fn layered(store: Arc<dyn Backend>, config: StandardConfig) -> Arc<dyn Ask> {
    match store.locality() {
        Locality::InProcess => Arc::new(Observe::new(store)),
        Locality::Remote => around(Coalesce::new(ObserveTrips::new(store), config.coalesce), config),
        Locality::Combining => around(ObserveTrips::new(store), config),
    }
}

/// Outermost last.
fn around(store: impl Backend, config: StandardConfig) -> Arc<dyn Ask> {
    let deadline = Deadline::new(store, config.deadline);
    let breaker = Breaker::new(deadline, config.breaker.for_callers_of(config.deadline.limit()));
    let degrade = Degrade::new(breaker, config.degrade);
    Arc::new(Observe::new(DenyCache::new(degrade, config.deny_cache)))
}
