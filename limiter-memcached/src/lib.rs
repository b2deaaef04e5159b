//! Memcached as a store of `distributed-rate-limiter`: compare-and-swap, and one write for all that wait for a key.
//!
//! ```no_run
//! use limiter_core::RateLimiter;
//! use limiter_memcached::Memcached;
//! use std::time::Duration;
//!
//! # async fn handle() -> Result<(), Box<dyn std::error::Error>> {
//! let memcached = Memcached::connect("memcached://10.0.0.1:11211,10.0.0.2:11211")?;
//! let limiter = RateLimiter::new(100, Duration::from_secs(60), memcached)?;
//! if limiter.allow("user:42").await {
//!     // serve
//! }
//! # Ok(())
//! # }
//! ```
//! # Versions
//! Tested with Memcached 1.6.18. The meta commands need 1.6; plain TCP, without SASL or TLS.
//!
//! # What is kept
//! A key is `rl1:algorithm:..` in visible characters, others as `%` and two hexadecimal digits; where that is above
//! Memcached's 250 bytes, `rl1#` and the SHA-512/256 digest. The value is 9 to 28 bytes, and for a sliding log as many
//! numbers as it has admissions. Every item has a time to live, but for one that would end after January 2038, which
//! Memcached cannot tell: that one stays until it is evicted or reset.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod builder;
mod error;
mod key;
mod ready;
mod server;
mod stats;
mod store;

pub use backend::{Memcached, MemcachedUsage, ServerUsage};
pub use builder::{ConfigError, MemcachedBuilder};
/// The driver, for those who want to speak to the same servers by themselves. Its version is not part of this crate's
/// promises.
pub use memcache;
pub use stats::Skew;
