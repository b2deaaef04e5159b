//! The `RateLimit` and `RateLimit-Policy` fields of draft-ietf-httpapi-ratelimit-headers-11: structured-field
//! lists of quoted names and whole seconds. All rounding is to the safe side: never more than is true.

use distributed_rate_limiter::{Algorithm, Decision, Quota};
use std::time::Duration;

/// One rule, and where the client stands under it.
pub(crate) struct Policy<'a> {
    pub(crate) name: &'a str,
    pub(crate) quota: Quota,
    pub(crate) decision: Decision,
}

/// The highest integer of a structured field.
const HIGHEST: u64 = 999_999_999_999_999;

/// `"client";q=10;w=2, ...`: what each policy allows.
pub(crate) fn policy_field(policies: &[Policy<'_>]) -> String {
    let items = policies.iter().map(|policy| {
        let capacity = policy.decision.capacity;
        // A bucket's burst and the time to refill it: the policy's rate, and a quota that can truly be taken
        // at once. The limit and its window would promise more wherever the burst is smaller. A window has
        // no burst, so these are its limit and its length. The draft has no parts of a second: rounded up,
        // a shorter window promises a slower rate than there is.
        let window = seconds(policy.time_to_earn(capacity)).max(1);
        // Of the names in `service.rs`, printable ASCII, `Debug` is a structured field's string.
        format!("{:?};q={};w={window}", policy.name, capacity.min(HIGHEST))
    });
    items.collect::<Vec<_>>().join(", ")
}

/// `"client";r=9;t=2, ...`: what is left under each policy, and for how long no more may be counted on.
///
/// With a `Retry-After`, no `t` is later than it, as the draft asks: a longer one is left out.
pub(crate) fn limit_field(policies: &[Policy<'_>], retry_after: Option<u64>) -> String {
    let items = policies.iter().map(|policy| {
        let item = format!("{:?};r={}", policy.name, policy.decision.remaining.min(HIGHEST));
        match policy.effective_window().map(seconds) {
            Some(t) if retry_after.is_none_or(|latest| t <= latest) => format!("{item};t={t}"),
            _ => item,
        }
    });
    items.collect::<Vec<_>>().join(", ")
}

/// The value of `Retry-After`: whole seconds, rounded up, at least 1. `None` if no wait helps.
pub(crate) fn retry_after(summary: &Decision) -> Option<u64> {
    summary.retry_after.map(|wait| seconds(wait).max(1))
}

impl Policy<'_> {
    /// The time until there is more; longer where spending what is left evenly over it would be faster than
    /// the policy's rate, as the draft warns of `r=10000;t=10` under `q=10000;w=1000`.
    fn effective_window(&self) -> Option<Duration> {
        let Decision { allowed, capacity, remaining, retry_after, reset_after, .. } = self.decision;
        if !allowed {
            return retry_after;
        }
        let until_more = match self.quota.algorithm() {
            // Full after `reset_after`, one permit at a time.
            Algorithm::TokenBucket | Algorithm::LeakyBucket => {
                let missing = capacity.saturating_sub(remaining);
                reset_after.saturating_sub(self.time_to_earn(missing.saturating_sub(1)))
            }
            // These do not say when the next permit comes, only when all are back.
            _ => reset_after,
        };
        Some(until_more.max(self.time_to_earn(remaining)))
    }

    /// The time in which the policy's rate yields so many permits, in whole microseconds.
    fn time_to_earn(&self, permits: u64) -> Duration {
        let micros =
            u128::from(permits) * self.quota.window().as_micros() / u128::from(self.decision.limit.max(1));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).min(HIGHEST)
}
