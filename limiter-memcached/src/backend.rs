use crate::builder::{ConfigError, MemcachedBuilder};
use crate::stats::Skew;
use crate::store::Servers;
use async_trait::async_trait;
use limiter_core::{
    Backend, BackendError, CasBackend, CasUsage, Figure, Locality, Quota, QuotaError, Request, Shard,
    StorageKey, Verdict, metric,
};
use std::fmt;

/// Limits in Memcached, on one server or spread over several. Clones share one.
///
/// # Atomicity
/// That of [`CasBackend`]: a request of one check is decided in one step; one of several is looked at as a whole, taken
/// key by key, and given back if a later key denies. It may deny too much for a moment, and never admits too much.
///
/// # Time
/// This process's clock, as Memcached has none to ask in the same trip. Instances whose clocks differ are looser or
/// stricter by what the difference refills; [`usage`](Self::usage) says how far each server's clock is from this one.
/// Times to live are the server's, and follow no clock that is set. Those above thirty days are told as an instant, with
/// what the server's clock is ahead, as it was when it was last asked.
///
/// # Memory
/// Memcached keeps nothing over a restart, and evicts what was used least recently when its memory is full: a state that
/// is lost admits at most one window or burst more, and who can make it evict can have that again and again. Give limits
/// a Memcached of their own, with room for every key that is live at a time, about 150 bytes each;
/// [`ready`](Backend::ready) reports one that evicts.
///
/// # Errors
/// `NotApplied` where the server refused or nothing was sent; `Unknown` where a write was sent and no reply came. Nothing
/// that may have been recorded is sent again. A server that is down fails its own keys only.
///
/// # Cancel safety
/// A dropped request may be recorded, once; no other caller notices.
#[derive(Clone)]
pub struct Memcached {
    inner: CasBackend<Servers>,
}

/// What a [`Memcached`] knows of its servers and of its own doings.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MemcachedUsage {
    /// Each server, in the order of the URL.
    pub servers: Vec<ServerUsage>,
    /// What waits, and what was done.
    pub cas: CasUsage,
    /// The most states that servers can have deleted because they had no room to replace them: each admits at most one
    /// window or burst more. Where one write of an exchange is refused so, all behind it are counted, as it is not known
    /// what became of them.
    pub lost_states: u64,
}

/// What a server said of itself when it was last asked: when it was connected, and each minute since while it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerUsage {
    /// Host and port.
    pub address: String,
    /// How far its clock is from this process's; `None` before it was connected.
    pub skew: Option<Skew>,
    /// Items that it has evicted since it was started.
    pub evictions: u64,
}

impl Memcached {
    pub(crate) fn new(inner: CasBackend<Servers>) -> Self {
        Self { inner }
    }

    /// The store at a URL; see [`MemcachedBuilder`] for their forms. Connects with the first request.
    ///
    /// # Errors
    /// A URL that is not understood.
    pub fn connect(url: impl Into<String>) -> Result<Self, ConfigError> {
        Self::builder(url).build()
    }

    /// The store at a URL, with settings.
    pub fn builder(url: impl Into<String>) -> MemcachedBuilder {
        MemcachedBuilder::url(url)
    }

    /// What it knows of its servers, and what it has done.
    #[must_use]
    pub fn usage(&self) -> MemcachedUsage {
        let store = self.inner.store();
        let servers = store.all().iter().map(|server| ServerUsage {
            address: server.address().to_owned(),
            skew: server.skew(),
            evictions: server.evictions(),
        });
        MemcachedUsage { servers: servers.collect(), cas: self.inner.usage(), lost_states: store.lost() }
    }

    /// How many states were found that are none: written by someone else, or damaged. Each counted as absent and was
    /// replaced by the next admission.
    #[must_use]
    pub fn corrupt_states(&self) -> u64 {
        self.inner.usage().corrupt_states
    }
}

#[async_trait]
impl Backend for Memcached {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        self.inner.decide(batch).await
    }

    fn decide_now(&self, request: &Request) -> Option<Result<Verdict, BackendError>> {
        self.inner.decide_now(request)
    }

    fn shard(&self, request: &Request) -> Shard {
        self.inner.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.inner.accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        self.inner.reset(keys).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.inner.ready().await
    }

    fn locality(&self) -> Locality {
        self.inner.locality()
    }

    fn may_forget(&self) -> bool {
        self.inner.may_forget()
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        self.inner.report(tell);
        let skews = self.inner.store().all().iter().filter_map(|server| server.skew());
        if let Some(widest) = skews.map(|skew| skew.ahead_micros.unsigned_abs()).max() {
            tell(Figure::new(&metric::CLOCK_SKEW, self.name(), widest));
        }
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}

impl fmt::Debug for Memcached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memcached").field("servers", &self.inner.store().all().len()).finish_non_exhaustive()
    }
}
