//! Exact rate limits: several rules decided in one step, in this process or shared by many processes through a
//! store they already run.
//!
//! ```
//! use distributed_rate_limiter::{RateLimiter, connect};
//! use std::time::Duration;
//!
//! # async fn handle() -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = RateLimiter::new(100, Duration::from_secs(60), connect("memory://")?)?;
//! if limiter.allow("user:42").await {
//!     // serve
//! }
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(handle()).unwrap();
//! ```
//!
//! Everything that decides is a [`Backend`]; [`RateLimiter`] is the front that turns a caller and its rules into
//! requests. Examples of items that come from `limiter_core` name that crate; here they have the same names.
//!
//! # Features
//! Each adds and none takes away.
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `memory` | yes | [`Memory`], the in-process store, and `memory://` in [`connect`] |
//! | `redis` | no | `Redis`, a server, a cluster or behind Sentinel, and `redis://`, `redis-cluster://`, `redis-sentinel://` in [`connect`] |
//! | `memcached` | no | `Memcached`, one server or several, and `memcached://` in [`connect`] |
//! | `postgres` | no | `Postgres`, and `postgres://` in [`connect`] |
//! | `tls` | no | `rediss://` and its kin, and `postgres://..?sslmode=require`, by rustls |
//! | `serde` | no | [`Quota`] in configuration, as text or as a table |
#![cfg_attr(docsrs, feature(doc_cfg))]

mod connect;

pub use connect::{ConnectError, connect};
pub use limiter_core::{
    Algorithm, Backend, BackendError, Breaker, BreakerConfig, BreakerState, BreakerUsage, Caller, Check,
    Coalesce, CoalesceConfig, CoalesceUsage, Deadline, DeadlineConfig, Decision, Degrade, DegradeConfig,
    DegradeUsage, DenyCache, DenyCacheConfig, DenyCacheUsage, Effect, Error, ErrorKind, Figure, Keyspace,
    Keyspaces, Locality, Metric, NameError, Observe, ObserveTrips, OnOutage, Origin, Placement, Quota,
    QuotaBuilder, QuotaError, QuotaParseError, RateLimiter, RateLimiterBuilder, Request, RequestError, Rule,
    RuleDecision, RulesVerdict, Scope, Shard, StandardConfig, StorageKey, Timestamp, TimestampError, Verdict,
    algorithm, metric, standard,
};
#[cfg(feature = "memcached")]
pub use limiter_core::{CasConfig, CasUsage};
#[cfg(feature = "memory")]
pub use limiter_core::{Memory, MemoryBuilder, MemoryUsage};
#[cfg(feature = "memcached")]
pub use limiter_memcached::{self as memcached, Memcached, MemcachedBuilder, MemcachedUsage};
#[cfg(feature = "postgres")]
pub use limiter_postgres::{self as postgres, Durability, Postgres, PostgresBuilder, Sweeping};
#[cfg(feature = "redis")]
pub use limiter_redis::{self as redis, Redis, RedisBuilder};

/// The examples of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
