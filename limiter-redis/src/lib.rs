//! Redis as a store of `distributed-rate-limiter`: one script decides a whole batch in one round trip.
//!
//! ```no_run
//! use limiter_core::RateLimiter;
//! use limiter_redis::Redis;
//! use std::time::Duration;
//!
//! # async fn handle() -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = RateLimiter::new(100, Duration::from_secs(60), Redis::connect("redis://127.0.0.1:6379")?)?;
//! if limiter.allow("user:42").await {
//!     // serve
//! }
//! # Ok(())
//! # }
//! ```
//! # Versions
//! Redis 7.0 and later: 7.0.15 is what the tests run, on a single server, a cluster and through Sentinel.
//! [`ready`](limiter_core::Backend::ready) refuses what is older. A script's error comes wrapped in another there, so
//! that a refusal cannot be told from what may have been recorded.
//!
//! # Permissions
//! A user with its own keys (`~*rl1:*`) and `+@connection +eval +evalsha +append +getrange +mget +pexpire +set +time
//! +unlink`; in a cluster also `+pttl +cluster|slots`. With `+info`, [`ready`](limiter_core::Backend::ready) tells a server that
//! is too old, or evicts. Without `+incrby`, which it does not ask for, decisions are the same and take longer.
//!
//! # What is kept
//! A key is `{tag}rl1:algorithm:..`, where the tag decides its slot in a cluster. The value is an integer for a bucket
//! whose permits take whole microseconds, else a few doubles, and for a sliding log a string that grows by 35 bytes per
//! admission; every key has a time to live. The files in `src/lua` say which state is what.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod batch;
mod builder;
mod cluster;
mod error;
mod link;
mod ready;
mod route;
mod script;
mod server;
mod take_and_give_back;
mod target;
mod trips;

pub use backend::Redis;
pub use builder::{ConfigError, RedisBuilder};
/// The driver, for those who bring a client of their own. Its version is not part of this crate's promises.
pub use redis;
