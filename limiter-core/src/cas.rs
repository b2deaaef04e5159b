//! Stores with compare-and-swap: what they have to do, and the one loop that makes a
//! [`Backend`](crate::Backend) of any of them.

mod backend;
mod config;
mod part;
mod round;
mod state;
mod trip;

pub use backend::CasBackend;
pub use config::{CasConfig, CasUsage};

use crate::error::BackendError;
use crate::key::StorageKey;
use async_trait::async_trait;
use std::time::Duration;

/// A store with compare-and-swap: values by key, each with a version that every write changes.
///
/// Three methods make a store of limits of it, by [`CasBackend`]; the others are for stores of several parts, with a
/// limit to the size of a value, that may lose values, or with more to say when they are asked whether they are ready.
///
/// To be correct:
/// - no key's version comes back while anybody may still hold it, not even after the key was deleted or has expired;
/// - a value ends with its [`Write::keep`] or later, never earlier unless the store says that it
///   [may forget](Self::may_forget) values;
/// - the keys of one call are all of one [`part`](Self::part), each occurs once, and each is an operation of its own:
///   one that fails fails no other, and they may take effect in any order;
/// - the replies have one entry per key, in order.
///
/// # Errors
/// An error says by its [`effect`](BackendError::effect) whether a write may have been applied: `Unknown` until it is
/// proved that it was not; a read that failed has applied nothing. Nothing is retried below this trait. What fails several
/// keys at once is one error, cloned.
///
/// # Cancel safety
/// Every call runs in a task of the backend's own, which ends early only with its runtime.
///
/// # Example
/// How the methods look in stores that have this primitive:
///
/// | store | version | [`read`](Self::read) | [`write`](Self::write), of an absent key | of one that is there |
/// |---|---|---|---|---|
/// | etcd | `mod_revision` | `Range` per key in one `Txn` | `Txn`: `mod_revision = 0`, then `Put` with a new lease | `mod_revision = v`, then `Put` with a new lease |
/// | DynamoDB | an attribute of your own, random: a count would begin anew | `BatchGetItem`, consistent | `PutItem` if `attribute_not_exists(pk)` | if `version = :v` |
/// | FoundationDB | a versionstamp in the value | `get` | `get`, compare, `set` in one transaction | the same |
/// | Consul | `ModifyIndex` | `KV` get in one `Txn` | `cas` with index 0 | `cas` with its index |
///
/// A toy one, which passes the conformance suite in this crate's tests:
/// ```
#[doc = include_str!("../tests/common/toy_store.rs")]
///
/// use limiter_core::{CasBackend, RateLimiter};
/// use std::time::Duration;
///
/// # async fn handle() -> Result<(), limiter_core::Error> {
/// let limiter = RateLimiter::new(2, Duration::from_secs(60), CasBackend::new("toy", Toy::default()))?;
/// assert!(limiter.allow("user:42").await);
/// assert!(limiter.allow("user:42").await);
/// assert!(!limiter.allow("user:42").await);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(handle()).unwrap();
/// ```
#[async_trait]
pub trait CasStore: Send + Sync + 'static {
    /// The value of each key; `None` where there is none.
    async fn read(&self, keys: &[StorageKey]) -> Vec<Result<Option<Value>, BackendError>>;

    /// Writes each value if its key is still as it was when it was read.
    async fn write(&self, writes: &[Write]) -> Vec<Result<Swap, BackendError>>;

    /// Removes each key's value, whichever it is; a key without one is none the less removed.
    async fn delete(&self, keys: &[StorageKey]) -> Vec<Result<(), BackendError>>;

    /// The number of the part of the store that a key is in: each has queues of its own, so that one that fails or
    /// hangs holds up no other.
    fn part(&self, _key: &StorageKey) -> u32 {
        0
    }

    /// The most bytes that a value can have. Quotas whose states could have more are refused; no longer value is
    /// ever written.
    fn most_bytes(&self) -> u64 {
        u64::MAX
    }

    /// Whether the store may lose a value before its end, as one that evicts where its memory is full; by default it
    /// does not. What layers learn of it is [`Backend::may_forget`](crate::Backend::may_forget).
    fn may_forget(&self) -> bool {
        false
    }

    /// Whether the store can be used as it is; by default it is, and errors say otherwise.
    ///
    /// # Errors
    /// What is wrong, in words for an operator.
    async fn ready(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

/// What a [`CasStore`] has under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// What was written.
    pub bytes: Vec<u8>,
    /// Which write it was.
    pub version: u64,
}

/// A value that a [`CasStore`] is to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its key.
    pub key: StorageKey,
    /// The value.
    pub bytes: Vec<u8>,
    /// The version that the key must still have; `None`: it must still be absent.
    pub expected: Option<u64>,
    /// For how long the value is needed: it may go after that, and not before.
    pub keep: Duration,
}

/// What became of a [`Write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// It was written, as this version; `None` where the store does not say, so that the next one reads first.
    Written(Option<u64>),
    /// Nothing was written: the key is not as it was expected.
    Changed,
}
