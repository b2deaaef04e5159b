use super::{Error, Inner, OnError, RateLimiter};
use crate::backend::Backend;
use crate::rule::Rule;
use crate::time::Timestamp;
use std::fmt;
use std::sync::Arc;

/// A [`RateLimiter`] in the making.
#[must_use = "a builder limits nothing until it builds"]
pub struct RateLimiterBuilder {
    backend: Arc<dyn Backend>,
    namespace: String,
    rules: Vec<Rule>,
    on_error: OnError,
    clock: Option<super::Clock>,
}

impl RateLimiterBuilder {
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        let namespace = RateLimiter::DEFAULT_NAME.to_owned();
        Self { backend, namespace, rules: Vec::new(), on_error: OnError::default(), clock: None }
    }

    /// What keeps this application's states apart from others' in one store; by default
    /// [`RateLimiter::DEFAULT_NAME`].
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// One more rule; a request is granted only if all rules admit it, and else consumes from none.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// What [`RateLimiter::allow`] answers when the store gives no answer; by default [`OnError::Allow`].
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
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
        let Self { backend, namespace, rules, on_error, clock } = self;
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
        Ok(RateLimiter { inner: Arc::new(Inner { rules, plain, backend, on_error, clock }) })
    }
}

impl fmt::Debug for RateLimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, namespace, rules, on_error, .. } = self;
        f.debug_struct("RateLimiterBuilder")
            .field("store", &backend.name())
            .field("namespace", namespace)
            .field("rules", rules)
            .field("on_error", on_error)
            .finish_non_exhaustive()
    }
}
