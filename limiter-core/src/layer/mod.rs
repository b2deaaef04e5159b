//! Layers: each concern is a [`Backend`](crate::Backend) around a `Backend`.
//!
//! Outermost first:
//!
//! | layer | why there |
//! |---|---|
//! | [`Observe`] | sees every answer, also those that never reach the store |
//! | [`DenyCache`] | a remembered denial costs nothing below it |
//! | [`Degrade`] | answers whatever fails below it |
//! | [`Breaker`] | while open, keeps callers out of the queue |
//! | [`Deadline`] | counts the whole wait of one caller, the queue included |
//! | [`Coalesce`] | next to the store: what it sends is what travels |
//! | [`ObserveTrips`] | sees what the store alone does |
//! | store | |
//!
//! [`standard`] puts them around a store. One that combines requests per key by itself
//! ([`Locality::Combining`](crate::Locality::Combining)) goes without [`Coalesce`], one in this process with
//! [`Observe`] alone.

#![expect(clippy::manual_async_fn, reason = "`async_trait` makes another signature of an `async fn`")]

mod breaker;
mod coalesce;
mod deadline;
mod degrade;
mod deny_cache;
mod observe;
mod standard;

pub use breaker::{Breaker, BreakerConfig, BreakerState, BreakerUsage};
pub use coalesce::{Coalesce, CoalesceConfig, CoalesceUsage};
pub use deadline::{Deadline, DeadlineConfig};
pub use degrade::{Degrade, DegradeConfig, DegradeUsage, OnOutage};
pub use deny_cache::{DenyCache, DenyCacheConfig, DenyCacheUsage};
pub use observe::{Observe, ObserveTrips};

pub(crate) use standard::layered;
pub use standard::{StandardConfig, standard};

use crate::decision::Verdict;
use crate::error::BackendError;
use crate::request::Request;
use tokio::time::Instant;

/// What a request is answered.
type Answer = Result<Verdict, BackendError>;

/// One failure, which hits the whole call.
fn all_failed<A: FromIterator<Answer>>(batch: &[Request], error: &BackendError) -> A {
    batch.iter().map(|_| Err(error.clone())).collect()
}

/// When nobody waits for any of these any more; `None`: somebody waits without end.
fn last_deadline(requests: &[Request]) -> Option<Instant> {
    requests.iter().map(Request::deadline).reduce(|last, next| Some(last?.max(next?))).flatten()
}
