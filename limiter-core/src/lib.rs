//! The core of `distributed-rate-limiter`: quotas, exact algorithms, the [`Backend`] contract, the in-process
//! store and the [`RateLimiter`] front.
//!
//! Applications use the facade crate, `distributed-rate-limiter`. This crate is for those who write a store or
//! a layer: start at [`Backend`].

pub mod algorithm;
mod backend;
pub mod batch;
mod cas;
mod decision;
mod error;
mod key;
mod layer;
mod limiter;
mod lock;
mod memory;
pub mod metric;
mod one_or_many;
mod parts;
mod quota;
mod request;
mod rule;
mod scope;
pub mod take_and_give_back;
mod time;

pub use algorithm::Algorithm;
pub use backend::{Backend, Locality, Shard};
pub use cas::{CasBackend, CasConfig, CasStore, CasUsage, Swap, Value, Write};
pub use decision::{Decision, Origin, Verdict};
pub use error::{BackendError, Effect, ErrorKind};
pub use key::{Keyspace, Keyspaces, NameError, Placement, StorageKey};
pub use layer::{
    Breaker, BreakerConfig, BreakerState, BreakerUsage, Coalesce, CoalesceConfig, CoalesceUsage, Deadline,
    DeadlineConfig, Degrade, DegradeConfig, DegradeUsage, DenyCache, DenyCacheConfig, DenyCacheUsage,
    Observe, ObserveTrips, OnOutage, StandardConfig, standard,
};
pub use limiter::{Error, RateLimiter, RateLimiterBuilder, RuleDecision, RulesVerdict};
pub use memory::{Memory, MemoryBuilder, MemoryUsage};
pub use metric::{Figure, Metric};
pub use quota::{Quota, QuotaBuilder, QuotaError, QuotaParseError};
pub use request::{Check, Request, RequestError};
pub use rule::Rule;
pub use scope::{Caller, Scope};
pub use time::{Timestamp, TimestampError};
