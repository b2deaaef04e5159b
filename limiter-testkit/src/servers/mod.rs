//! Real servers for tests: started on free ports with data of their own, stopped when dropped.
//!
//! Each is the machine's own program. One that is missing is an error that says how to get it, never a skipped
//! test. A server ends with its handle, and also when the test process is killed: a small shell waits for that.
//! [`containers`] are for what needs addresses of its own.
//!
//! ```
//! use limiter_testkit::servers::Redis;
//!
//! let redis = Redis::builder().config("maxmemory", "1mb").start()?;
//! redis.command(&["SET", "greeting", "hello"])?;
//! redis.pause(); // as a hung server: connections stay open, nothing is answered
//! redis.resume();
//! assert_eq!(redis.command(&["GET", "greeting"])?.text(), Some("hello"));
//! redis.kill();
//! redis.restart()?; // on the same port
//! assert!(redis.command(&["GET", "greeting"])?.is_nil());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod certificates;
mod cluster;
pub mod containers;
mod error;
mod keeper;
mod memcached;
mod port;
mod postgres;
mod process;
mod program;
mod redis;
pub mod resp;
mod sentinel;
pub mod shared;

pub use certificates::Certificate;
pub use cluster::RedisCluster;
pub use error::ServerError;
pub use memcached::{Memcached, MemcachedBuilder};
pub use postgres::{Postgres, PostgresBuilder};
pub use process::Process;
pub use redis::{Redis, RedisBuilder};
pub use sentinel::RedisSentinel;

pub(crate) use port::listener;
