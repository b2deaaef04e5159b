use crate::builder::{ConfigError, RedisBuilder};
use crate::error::NAME;
use crate::ready;
use crate::trips::Trips;
use async_trait::async_trait;
use limiter_core::{
    Backend, BackendError, Figure, Locality, Quota, QuotaError, Request, Shard, StorageKey, Verdict, metric,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Limits in Redis, Redis Cluster or behind Sentinel. Clones share one.
///
/// # Atomicity
/// One script decides a batch: each request in one step, all or nothing. In a cluster that holds for requests whose
/// keys are in one slot, as keys of one [`Placement`](limiter_core::Placement) are. Others are looked at first, then
/// taken key by key, and given back if a later one denies: they may deny too much for a moment, and never admit too
/// much.
///
/// # Time
/// The server's clock. Its times to live follow the wall clock too: a step forward by more than a key's window frees
/// that key, which admits at most one window or burst more.
///
/// # Memory
/// Redis may lose what it holds: by eviction, in a failover before the replica has it, in a crash since it was last
/// saved. A lost state admits at most one window or burst more. [`ready`](Backend::ready) reports a server that evicts.
///
/// # Errors
/// `NotApplied` where the server refused or nothing was sent; `Unknown` where a reply did not come or was cut. Nothing
/// that may have been recorded is sent again.
///
/// # Cancel safety
/// A dropped request may be recorded, once; no other caller notices.
#[derive(Clone)]
pub struct Redis {
    pub(crate) trips: Arc<Trips>,
}

impl Redis {
    /// The store at a URL; see [`RedisBuilder`] for their forms. Connects with the first request.
    ///
    /// # Errors
    /// A URL that is not understood.
    pub fn connect(url: impl Into<String>) -> Result<Self, ConfigError> {
        Self::builder(url).build()
    }

    /// The store at a URL, with settings.
    pub fn builder(url: impl Into<String>) -> RedisBuilder {
        RedisBuilder::url(url)
    }

    /// The server of a client that is ready, with settings.
    pub fn from_client(client: redis::Client) -> RedisBuilder {
        RedisBuilder::client(client)
    }

    /// How many states were found that are none: written by someone else, or damaged. Each counted as absent and was
    /// replaced by the next admission. A key of another type than a string is counted where it is a log's.
    #[must_use]
    pub fn corrupt_states(&self) -> u64 {
        self.trips.corrupt.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Backend for Redis {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        self.trips.decide(batch).await
    }

    fn decide_now(&self, _request: &Request) -> Option<Result<Verdict, BackendError>> {
        None
    }

    fn shard(&self, request: &Request) -> Shard {
        self.trips.route.shard(request)
    }

    fn accepts(&self, _quota: &Quota) -> Result<(), QuotaError> {
        Ok(())
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        self.trips.reset(keys).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        ready::check(self).await
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    fn may_forget(&self) -> bool {
        self.trips.allow_eviction
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        tell(Figure::new(&metric::CORRUPT_STATES, NAME, self.corrupt_states()));
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("route", &self.trips.route).finish_non_exhaustive()
    }
}
