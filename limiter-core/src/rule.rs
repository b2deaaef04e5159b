//! Rules: a named quota, and whom it counts.

mod quota_cell;

use crate::key::Keyspaces;
use crate::limiter::Error;
use crate::quota::{Quota, QuotaError};
use crate::scope::{Caller, Scope};
use quota_cell::QuotaCell;
use std::fmt;
use std::sync::Arc;

/// One rule of a [`RateLimiter`](crate::RateLimiter): a name, a quota, and the scope it counts by.
///
/// The name is part of what a store files the states under, and of metrics: keep it short and stable.
///
/// # Example: tiers
/// ```
/// use limiter_core::{Memory, Quota, RateLimiter, Rule, Scope};
///
/// let gold = Quota::per_minute(1_000).build()?;
/// let rule = Rule::new("user", Quota::per_minute(100))
///     .scope(Scope::per("user"))
///     .quota_for(move |caller| caller.get("tier").filter(|tier| *tier == b"gold").map(|_| gold));
/// let limiter = RateLimiter::builder(Memory::new()).rule(rule).build()?;
/// # Ok::<(), limiter_core::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "a rule limits nothing until a limiter has it"]
pub struct Rule {
    name: String,
    scope: Scope,
    quota: Result<Quota, QuotaError>,
    chooser: Option<Chooser>,
}

/// Chooses a quota for a caller; `None`: the rule's own.
type Chooser = Arc<dyn Fn(&Caller<'_>) -> Option<Quota> + Send + Sync>;

impl Rule {
    /// A rule of this name and quota, for each key; the quota may be text, or still to be built.
    ///
    /// A quota that is refused is reported when the limiter is built.
    pub fn new<Q>(name: impl Into<String>, quota: Q) -> Self
    where
        Q: TryInto<Quota>,
        Q::Error: Into<QuotaError>,
    {
        let quota = quota.try_into().map_err(Into::into);
        Self { name: name.into(), scope: Scope::key(), quota, chooser: None }
    }

    /// What it counts by; by default [`Scope::key`].
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Chooses the quota by caller, as for tiers; `None` leaves the rule's own. Called for each decision.
    ///
    /// From a few: a full [`Memory`](crate::Memory) has overflow states for each quota that it is asked for.
    pub fn quota_for(
        mut self,
        chooser: impl Fn(&Caller<'_>) -> Option<Quota> + Send + Sync + 'static,
    ) -> Self {
        self.chooser = Some(Arc::new(chooser));
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn activate(self, namespace: &str) -> Result<ActiveRule, Error> {
        let Self { name, scope, quota, chooser } = self;
        let quota = QuotaCell::new(quota?);
        let keyspaces = Keyspaces::new(namespace, &name)?;
        Ok(ActiveRule { name: name.into(), scope, quota, chooser, keyspaces })
    }
}

/// A rule at work.
pub(crate) struct ActiveRule {
    pub(crate) name: Box<str>,
    pub(crate) scope: Scope,
    quota: QuotaCell,
    chooser: Option<Chooser>,
    pub(crate) keyspaces: Keyspaces,
}

impl ActiveRule {
    /// The quota of callers for whom no other is chosen.
    #[inline]
    pub(crate) fn quota(&self) -> Quota {
        self.quota.get()
    }

    pub(crate) fn set_quota(&self, quota: Quota) {
        self.quota.set(quota);
    }

    /// Whether it has one quota for all, and counts by the caller's key.
    pub(crate) fn is_plain(&self) -> bool {
        self.chooser.is_none() && self.scope == Scope::key()
    }

    /// The quota that was chosen for this caller, if one was.
    pub(crate) fn chosen(&self, caller: &Caller<'_>) -> Option<Quota> {
        self.chooser.as_ref().and_then(|choose| choose(caller))
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, scope, quota, chooser } = self;
        let mut rule = f.debug_struct("Rule");
        rule.field("name", name).field("scope", scope).field("quota", quota);
        rule.field("quota_for", &chooser.is_some()).finish()
    }
}
