//! What reaches a store.

use async_trait::async_trait;
use distributed_rate_limiter::{
    Backend, BackendError, Figure, Locality, Quota, QuotaError, Request, Shard, StorageKey, Verdict,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Stands next to the store and keeps what it is asked.
pub(crate) struct Spy {
    store: Arc<dyn Backend>,
    epoch: Instant,
    trips: Mutex<Vec<Trip>>,
}

/// One call of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trip {
    pub(crate) from: Duration,
    /// When it was answered or given up.
    pub(crate) to: Duration,
    pub(crate) requests: usize,
    /// Whether it asks only where keys stand.
    pub(crate) is_peek: bool,
}

impl Spy {
    pub(crate) fn new(store: Arc<dyn Backend>, epoch: Instant) -> Self {
        Self { store, epoch, trips: Mutex::default() }
    }

    pub(crate) fn trips(&self) -> Vec<Trip> {
        self.trips.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A trip under way, which is over when it is dropped.
struct UnderWay<'a> {
    spy: &'a Spy,
    trip: Trip,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let trip = Trip { to: self.spy.epoch.elapsed(), ..self.trip };
        self.spy.trips.lock().unwrap_or_else(PoisonError::into_inner).push(trip);
    }
}

#[async_trait]
impl Backend for Spy {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        let is_peek = batch.iter().flat_map(Request::checks).all(|check| check.cost == 0);
        let from = self.epoch.elapsed();
        let trip = Trip { from, to: from, requests: batch.len(), is_peek };
        let _under_way = UnderWay { spy: self, trip };
        self.store.decide(batch).await
    }

    fn decide_now(&self, request: &Request) -> Option<Result<Verdict, BackendError>> {
        self.store.decide_now(request)
    }

    fn shard(&self, request: &Request) -> Shard {
        self.store.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.store.accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        self.store.reset(keys).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.store.ready().await
    }

    fn locality(&self) -> Locality {
        self.store.locality()
    }

    fn may_forget(&self) -> bool {
        self.store.may_forget()
    }

    fn name(&self) -> &'static str {
        self.store.name()
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        self.store.report(tell);
    }
}
