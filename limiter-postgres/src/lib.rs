//! PostgreSQL as a store of `distributed-rate-limiter`: one statement decides a whole batch in one round trip.
//!
//! ```no_run
//! use limiter_core::RateLimiter;
//! use limiter_postgres::Postgres;
//! use std::time::Duration;
//!
//! # async fn handle() -> Result<(), Box<dyn std::error::Error>> {
//! let postgres = Postgres::connect("postgres://app@localhost/app")?;
//! postgres.migrate().await?;
//! let limiter = RateLimiter::new(100, Duration::from_secs(60), postgres)?;
//! if limiter.allow("user:42").await {
//!     // serve
//! }
//! # Ok(())
//! # }
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod batch;
mod builder;
mod error;
mod finish;
mod pool;
mod ready;
mod retry;
mod schema;
mod server;
mod sweep;
mod target;

pub use backend::Postgres;
pub use builder::{ConfigError, Durability, PostgresBuilder};
/// The pool, for those who bring one of their own. Its version is not part of this crate's promises.
pub use deadpool_postgres;
pub use sweep::Sweeping;
