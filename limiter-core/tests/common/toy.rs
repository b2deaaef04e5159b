//! A store with compare-and-swap in this process, which yields on its way as a distant one would.

use async_trait::async_trait;
use limiter_core::{Algorithm, BackendError, CasBackend, CasStore, StorageKey, Swap, Value, Write};
use limiter_testkit::Inside;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::yield_now;

/// Values with the version of their last write and their end. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Toy {
    values: Arc<Mutex<Values>>,
    quirks: Quirks,
}

/// How it differs from the simplest one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quirks {
    /// Does not say which version a write has made.
    pub(crate) is_silent: bool,
    /// Of every so many writes, one finds its key changed though it is not.
    pub(crate) spurious: Option<u64>,
    /// Keys are spread over so many parts.
    pub(crate) parts: u64,
}

#[derive(Debug, Default)]
struct Values {
    last: u64,
    writes: u64,
    by_key: HashMap<StorageKey, (Value, Instant)>,
}

impl Toy {
    pub(crate) fn new(quirks: Quirks) -> Self {
        Self { values: Arc::default(), quirks }
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        values.by_key.retain(|_, (_, end)| *end > now);
        values
    }
}

impl Values {
    fn version(&self, key: &StorageKey) -> Option<u64> {
        self.by_key.get(key).map(|(value, _)| value.version)
    }

    fn put(&mut self, key: &StorageKey, bytes: &[u8], keep: Duration) -> u64 {
        self.last += 1;
        let value = Value { bytes: bytes.to_vec(), version: self.last };
        self.by_key.insert(key.clone(), (value, Instant::now() + keep));
        self.last
    }
}

#[async_trait]
impl CasStore for Toy {
    async fn read(&self, keys: &[StorageKey]) -> Vec<Result<Option<Value>, BackendError>> {
        yield_now().await;
        let read = {
            let values = self.values();
            keys.iter().map(|key| Ok(values.by_key.get(key).map(|(value, _)| value.clone()))).collect()
        };
        yield_now().await;
        read
    }

    async fn write(&self, writes: &[Write]) -> Vec<Result<Swap, BackendError>> {
        yield_now().await;
        let written = {
            let mut values = self.values();
            let mut write = |write: &Write| {
                values.writes += 1;
                let is_spurious =
                    self.quirks.spurious.is_some_and(|every| values.writes.is_multiple_of(every));
                if is_spurious || values.version(&write.key) != write.expected {
                    return Ok(Swap::Changed);
                }
                let version = values.put(&write.key, &write.bytes, write.keep);
                Ok(Swap::Written((!self.quirks.is_silent).then_some(version)))
            };
            writes.iter().map(&mut write).collect()
        };
        yield_now().await;
        written
    }

    async fn delete(&self, keys: &[StorageKey]) -> Vec<Result<(), BackendError>> {
        let mut values = self.values();
        values.by_key.retain(|key, _| !keys.contains(key));
        keys.iter().map(|_| Ok(())).collect()
    }

    fn part(&self, key: &StorageKey) -> u32 {
        u32::try_from(key.place().as_u64() % self.quirks.parts.max(1)).unwrap_or_default()
    }
}

/// A look into the store of a backend.
pub(crate) struct Look(pub(crate) CasBackend<Toy>);

#[async_trait]
impl Inside for Look {
    async fn holds(&self, key: &StorageKey) -> bool {
        self.0.store().values().version(key).is_some()
    }

    async fn read(&self, key: &StorageKey) -> Option<Vec<u8>> {
        self.0.store().values().by_key.get(key).map(|(value, _)| value.bytes.clone())
    }

    async fn write(&self, key: &StorageKey, bytes: &[u8]) {
        self.0.store().values().put(key, bytes, Duration::from_secs(3_600));
    }

    async fn write_another_type(&self, _key: &StorageKey) -> bool {
        false
    }

    fn garbage(&self, algorithm: Algorithm) -> Vec<Vec<u8>> {
        let far = [0xff_u8; 7];
        match algorithm {
            // Another version; a number that does not end; one above all; one that is longer than it need be;
            // a remainder that is no part of a us; one of nothing.
            Algorithm::TokenBucket | Algorithm::LeakyBucket => vec![
                vec![2, 1],
                vec![1, 0x80],
                [&[1][..], &far, &[0x7f]].concat(),
                vec![1, 0x80, 0x00],
                vec![1, 1, 7, 7],
                vec![1, 1, 0, 7],
            ],
            Algorithm::FixedWindow => {
                vec![vec![1, 1], vec![1, 1, 1, 1], [&[1, 1][..], &far, &[0x7f]].concat()]
            }
            Algorithm::SlidingCounter => vec![vec![1, 1, 1], vec![1, 1, 1, 1, 1]],
            // More entries than there are, none of a cost, two at one time, a cost above all.
            Algorithm::SlidingLog => vec![
                vec![1, 2, 1, 1],
                vec![1, 1, 1, 0],
                vec![1, 2, 1, 1, 0, 1],
                [&[1, 0x7f][..], &far].concat(),
                [&[1, 1, 1][..], &far, &[0x7f]].concat(),
            ],
        }
    }

    fn corrupt_states(&self) -> u64 {
        self.0.usage().corrupt_states
    }
}
