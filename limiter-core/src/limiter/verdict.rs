use super::ask::{Ask, Asking, Wanted};
use crate::decision::{Decision, Verdict};
use crate::quota::Quota;
use crate::request::{Check, Request};

/// What was decided under each rule, and the quota that decided: also where it was chosen for the caller, or has
/// changed since.
///
/// # Example: what a client may be told
/// ```
/// use limiter_core::{Memory, RateLimiter, Rule};
///
/// # async fn handle() -> Result<(), limiter_core::Error> {
/// let rules = [Rule::new("burst", "5/second"), Rule::new("daily", "1000/day")];
/// let builder = RateLimiter::builder(Memory::new());
/// let limiter = rules.into_iter().fold(builder, |builder, rule| builder.rule(rule)).build()?;
/// let verdict = limiter.check_rules("user:42", 1).await?;
/// let told: Vec<String> =
///     verdict.rules().iter().map(|r| format!("{}: {} of {}", r.rule, r.decision.remaining, r.quota)).collect();
/// assert_eq!(told, ["burst: 4 of 5/second", "daily: 999 of 1000/day"]);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(handle()).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a verdict protects nothing until it is obeyed"]
pub struct RulesVerdict {
    rules: Vec<RuleDecision>,
    summary: Decision,
}

/// What was decided under one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleDecision {
    /// The rule's name.
    pub rule: &'static str,
    /// The rule's quota for this caller. Where this process has decided alone ([`Origin::Degraded`](crate::Origin)), a share
    /// of it has, whose numbers the decision says.
    pub quota: Quota,
    /// The decision; in a request that another rule denies, one that is `allowed` has consumed nothing.
    pub decision: Decision,
}

impl Wanted for RulesVerdict {
    fn of(request: &Request, verdict: &Verdict) -> Option<Self> {
        let decided = request.checks().iter().zip(verdict.decisions());
        Some(Self { rules: decided.map(RuleDecision::of).collect(), summary: verdict.summary()? })
    }

    fn of_one(request: &Request, decision: &Decision) -> Self {
        let rules = request.checks().iter().map(|check| RuleDecision::of((check, decision)));
        Self { rules: rules.collect(), summary: *decision }
    }

    fn asked_of<'b>(backend: &'b dyn Ask, request: &Request) -> Asking<'b, Self> {
        backend.rules(request)
    }
}

impl RuleDecision {
    fn of((check, decision): (&Check, &Decision)) -> Self {
        Self { rule: check.key.keyspace().rule(), quota: check.quota, decision: *decision }
    }
}

impl RulesVerdict {
    /// One decision per rule, in the order in which the limiter was given them.
    #[must_use]
    pub fn rules(&self) -> &[RuleDecision] {
        &self.rules
    }

    /// Whether the caller may go ahead: whether every rule admits it.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.summary.allowed
    }

    /// All in one decision, as [`RateLimiter::check`](crate::RateLimiter::check) gives it.
    pub fn summary(&self) -> Decision {
        self.summary
    }
}
