//! The servers as one store with compare-and-swap.

use crate::error::{NAME, unsent};
use crate::key::text;
use crate::ready;
use crate::server::{Failure, Manner, Server};
use async_trait::async_trait;
use futures_util::future::try_join_all;
use limiter_core::{BackendError, CasStore, Effect, ErrorKind, Placement, StorageKey, Swap, Value, Write};
use memcache::exp::{Delete, Get, GetResult, GetStatus, Meta, MutationResult, MutationStatus, Set};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) struct Servers {
    servers: Vec<Arc<Server>>,
    /// Of the servers' names, the same in every instance.
    names: Vec<Placement>,
    most_bytes: u64,
    pub(crate) allow_eviction: bool,
    lost: AtomicU64,
}

/// Above so many seconds a time to live is read as an instant, protocol.txt, "Expiration times".
const MOST_RELATIVE: u64 = 30 * 24 * 60 * 60;

impl Servers {
    pub(crate) fn new(
        addresses: impl IntoIterator<Item = String>,
        manner: Manner,
        most_bytes: u64,
        allow_eviction: bool,
    ) -> Self {
        let servers: Vec<Arc<Server>> =
            addresses.into_iter().map(|address| Arc::new(Server::new(address, manner))).collect();
        let names = servers.iter().map(|server| Placement::of(server.address().as_bytes())).collect();
        Self { servers, names, most_bytes, allow_eviction, lost: AtomicU64::new(0) }
    }

    pub(crate) fn all(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// Items that a server has deleted because it refused to replace them, at most.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The server of a key: the one of the highest score for it.
    fn place(&self, key: &StorageKey) -> usize {
        let place = key.place();
        let scores = self.names.iter().map(|name| place.score(*name)).enumerate();
        scores.max_by_key(|(_, score)| *score).map_or(0, |(server, _)| server)
    }

    /// The server of these keys, which are all of one.
    fn server(&self, key: Option<&StorageKey>) -> Option<&Arc<Server>> {
        self.servers.get(key.map_or(0, |key| self.place(key)))
    }
}

#[async_trait]
impl CasStore for Servers {
    async fn read(&self, keys: &[StorageKey]) -> Vec<Result<Option<Value>, BackendError>> {
        let Some(server) = self.server(keys.first()) else { return Vec::new() };
        let gets = keys.iter().map(|key| Get::new(text(key)).meta(Meta::NONE.cas())).collect();
        let results = server.run("decide", gets).await;
        results.into_iter().map(|result| value(server, result?)).collect()
    }

    async fn write(&self, writes: &[Write]) -> Vec<Result<Swap, BackendError>> {
        let Some(server) = self.server(writes.first().map(|write| &write.key)) else { return Vec::new() };
        let most = match server.limit("decide").await {
            Ok(most) => most.map_or(self.most_bytes, |most| most.min(self.most_bytes)),
            Err(error) => return writes.iter().map(|_| Err(error.clone())).collect(),
        };
        let fits = |write: &&Write| write.bytes.len() as u64 <= most;
        let ahead = server.ahead();
        let sets = writes.iter().filter(fits).map(|write| set(write, ahead)).collect();
        let mut results = server.run("decide", sets).await.into_iter();
        let mut loses = false;
        let swap = |write: &Write| {
            if !fits(&write) {
                let message = format!("a value of {} bytes is above {most}", write.bytes.len());
                return Err(unsent(ErrorKind::Config, "decide", server.address(), message));
            }
            let result = results.next().ok_or_else(|| left_out("decide"))?;
            if let Err(Failure { class: Some(class), .. }) = &result {
                // What travelled behind the first refusal may have met the same; the driver does not say.
                loses |= class.loses_the_item();
                self.lost.fetch_add(u64::from(loses && write.expected.is_some()), Ordering::Relaxed);
            }
            swapped(result?)
        };
        writes.iter().map(swap).collect()
    }

    async fn delete(&self, keys: &[StorageKey]) -> Vec<Result<(), BackendError>> {
        let Some(server) = self.server(keys.first()) else { return Vec::new() };
        let deletes = keys.iter().map(|key| Delete::new(text(key))).collect();
        server.run("reset", deletes).await.into_iter().map(|result| Ok(result.map(|_deleted| ())?)).collect()
    }

    fn part(&self, key: &StorageKey) -> u32 {
        u32::try_from(self.place(key)).unwrap_or_default()
    }

    fn most_bytes(&self) -> u64 {
        let known = self.servers.iter().filter_map(|server| server.most_bytes());
        known.fold(self.most_bytes, u64::min)
    }

    /// It evicts when its memory is full.
    fn may_forget(&self) -> bool {
        true
    }

    async fn ready(&self) -> Result<(), BackendError> {
        try_join_all(self.servers.iter().map(|server| ready::check(self, server))).await.map(|_all| ())
    }
}

fn value(server: &Server, got: GetResult) -> Result<Option<Value>, BackendError> {
    if got.status == GetStatus::Miss {
        return Ok(None);
    }
    match got.item.cas {
        // A write on version 0 would be compared with nothing.
        None | Some(0) => {
            let message = "its compare-and-swap is turned off (-C), without which limits are not exact";
            Err(unsent(ErrorKind::Config, "decide", server.address(), message))
        }
        Some(version) => Ok(Some(Value { bytes: got.value.unwrap_or_default(), version })),
    }
}

fn set(write: &Write, ahead: Duration) -> Set {
    let set = Set::new(text(&write.key), &write.bytes).ttl_raw(time_to_live(write.keep, ahead)).return_cas();
    match write.expected {
        Some(version) => set.compare_cas(version),
        None => set.add(),
    }
}

fn swapped(result: MutationResult) -> Result<Swap, BackendError> {
    match result.status {
        MutationStatus::Applied => Ok(Swap::Written(result.cas.filter(|version| *version > 0))),
        MutationStatus::CasMismatch | MutationStatus::NotFound | MutationStatus::AlreadyExists => {
            Ok(Swap::Changed)
        }
        _ => Err(left_out("decide")),
    }
}

fn left_out(operation: &'static str) -> BackendError {
    let message = "the driver left out an answer";
    BackendError::new(ErrorKind::Unexpected, Effect::Unknown, NAME, operation, message)
}

/// Whole seconds, and one more: the server's clock ticks once a second, so that what is stored late in a second has
/// that much less. Above thirty days the instant, by the clock of the server, which can be so far ahead of this one; above the
/// last one that Memcached can tell, in 2038, none, as it would be read as one that has passed.
fn time_to_live(keep: Duration, ahead: Duration) -> u32 {
    let whole = |time: Duration| time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    let seconds = whole(keep).saturating_add(1);
    if seconds <= MOST_RELATIVE {
        return u32::try_from(seconds).unwrap_or(u32::MAX);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match i32::try_from(now.saturating_add(seconds).saturating_add(whole(ahead))) {
        Ok(end) => end.unsigned_abs(),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use limiter_core::{Algorithm, Keyspace};

    fn servers(addresses: &[&str]) -> Servers {
        let manner = Manner {
            timeout: Duration::ZERO,
            connect_timeout: Duration::ZERO,
            connections: 1,
            ask_every: Duration::ZERO,
        };
        Servers::new(addresses.iter().map(|address| (*address).to_owned()), manner, 0, false)
    }

    /// Recorded once: another release or build that disagreed would split each limit over two servers.
    #[test]
    fn routing_is_stable_even_and_moves_little() {
        let keys = Keyspace::new("shop", "user", Algorithm::TokenBucket).unwrap();
        let three = servers(&["a:11211", "b:11211", "c:11211"]);
        let placed: Vec<usize> = (0..16_u8).map(|i| three.place(&keys.key(&[i]))).collect();
        assert_eq!(placed, [2, 0, 2, 1, 1, 2, 1, 2, 1, 2, 0, 0, 1, 1, 1, 1]);
        let two = servers(&["c:11211", "a:11211"]);
        let mut counts = [0; 3];
        for i in 0..3_000_u32 {
            let key = keys.key(&i.to_le_bytes());
            let (before, after) = (three.place(&key), two.place(&key));
            counts[before] += 1;
            let (before, after) = (three.servers[before].address(), two.servers[after].address());
            assert!(before == "b:11211" || before == after, "{before} to {after}");
        }
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
    }

    #[test]
    fn times_to_live_are_whole_and_never_early() {
        let ttl = |micros| time_to_live(Duration::from_micros(micros), Duration::ZERO);
        assert_eq!((ttl(0), ttl(1), ttl(1_000_000), ttl(1_000_001)), (1, 2, 2, 3));
        assert_eq!(ttl((MOST_RELATIVE - 1) * 1_000_000), 2_592_000);
        let long = u64::from(ttl(MOST_RELATIVE * 1_000_000));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!((now + MOST_RELATIVE..=now + MOST_RELATIVE + 1).contains(&long), "{long}");
        assert_eq!(time_to_live(Duration::MAX, Duration::ZERO), 0);
        // On a server whose clock is ahead the same instant is called later; what is relative is not called at all.
        let ahead = Duration::from_millis(3_600_500);
        let later = u64::from(time_to_live(Duration::from_secs(MOST_RELATIVE), ahead));
        assert!((long + 3_601..=long + 3_602).contains(&later), "{later} after {long}");
        assert_eq!(time_to_live(Duration::from_secs(1), ahead), 2);
    }
}
