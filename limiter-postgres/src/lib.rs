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
//! Many callers' requests travel in one trip behind [`Coalesce`](limiter_core::Coalesce), which a limiter puts
//! in front.
//!
//! # Versions
//! Tested with PostgreSQL 15, and through pgbouncer 1.18 in transaction mode. Any pooler in transaction mode needs
//! [`prepared(false)`](PostgresBuilder::prepared), whatever its version.
//!
//! # What a crash takes back
//! What is lost admits at most one window or burst more per key. The choice is [`PostgresBuilder::durability`]:
//!
//! | | tables | a commit waits for the disk | a crash of the server forgets | a failover forgets |
//! |---|---|---|---|---|
//! | [`Full`](Durability::Full) | logged | yes | nothing that was answered | what the standby had not got, unless it is synchronous |
//! | [`Asynchronous`](Durability::Asynchronous), the default | logged | no | the last moments: up to three times `wal_writer_delay`, 0.6 s | the same, and what the standby had not got |
//! | [`Unlogged`](Durability::Unlogged) | unlogged | no | everything | everything: a standby has none of it |
//!
//! A limit is worth less than its decision's latency: what the last half a second took is back within one window or
//! burst, once per crash. Waiting for the disk costs every trip what a crash costs once, and losing all limits at a crash,
//! when callers come back all at once, costs most when it matters most. Hence the default.
//!
//! # What is kept
//! A row per key, of five integers and the key, and for a sliding log a row per admission of the window in a second table;
//! the files in `src/sql` say which state is what. A decision on a log is O(log L), up to the highest limit there is,
//! [`Quota::MAX_LOG_LIMIT`](limiter_core::Quota::MAX_LOG_LIMIT). Rows outlive their states until a sweep:
//! [`Postgres::sweep_every`] in the service, or `SELECT rate_limits_sweep()` by a scheduler such as pg_cron, which does one
//! bounded step. Without either the tables grow with the keys. With one, the space of expired rows is new rows' once
//! autovacuum has been there, which looks every `autovacuum_naptime`, a minute by default: the tables hold what came in
//! that time, about 300 bytes a key. A sweep waits for nobody; a request for an expired key may
//! wait for the step that is deleting it, some milliseconds.
//!
//! # Permissions
//! Deciding needs `SELECT, INSERT, UPDATE, DELETE` on the tables, `USAGE` on the sequence, and `EXECUTE` on the
//! functions, which everybody has by default. [`Postgres::migrate`] needs what creating them does.
//! [`ready`](limiter_core::Backend::ready) says what is missing.
//!
//! # The schema
//! What [`Postgres::migrate`] runs, under the default names; [`Postgres::migration`] has it under others. Safe to repeat.
//! ```sql
#![doc = include_str!("../migration.sql")]
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod batch;
mod builder;
mod error;
mod finish;
mod keys;
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
