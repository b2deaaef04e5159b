//! The store of the documentation, which yields on its way as a distant one would, and differs from the simplest one as it
//! is told.

#[path = "toy_store.rs"]
mod toy_store;

use async_trait::async_trait;
use limiter_core::{Algorithm, BackendError, CasBackend, CasStore, StorageKey, Swap, Value, Write};
use limiter_testkit::Inside;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::yield_now;

/// Clones share one store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Toy {
    store: Arc<toy_store::Toy>,
    writes: Arc<AtomicU64>,
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

impl Toy {
    pub(crate) fn new(quirks: Quirks) -> Self {
        Self { quirks, ..Self::default() }
    }

    async fn value(&self, key: &StorageKey) -> Option<Value> {
        self.store.read(std::slice::from_ref(key)).await.remove(0).unwrap()
    }
}

#[async_trait]
impl CasStore for Toy {
    async fn read(&self, keys: &[StorageKey]) -> Vec<Result<Option<Value>, BackendError>> {
        yield_now().await;
        let read = self.store.read(keys).await;
        yield_now().await;
        read
    }

    async fn write(&self, writes: &[Write]) -> Vec<Result<Swap, BackendError>> {
        yield_now().await;
        let mut written = Vec::with_capacity(writes.len());
        for write in writes {
            let count = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
            if self.quirks.spurious.is_some_and(|every| count.is_multiple_of(every)) {
                written.push(Ok(Swap::Changed));
                continue;
            }
            let swap = self.store.write(std::slice::from_ref(write)).await.remove(0);
            written.push(swap.map(|swap| match swap {
                Swap::Written(_) if self.quirks.is_silent => Swap::Written(None),
                _ => swap,
            }));
        }
        yield_now().await;
        written
    }

    async fn delete(&self, keys: &[StorageKey]) -> Vec<Result<(), BackendError>> {
        self.store.delete(keys).await
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
        self.read(key).await.is_some()
    }

    async fn read(&self, key: &StorageKey) -> Option<Vec<u8>> {
        self.0.store().value(key).await.map(|value| value.bytes)
    }

    async fn write(&self, key: &StorageKey, bytes: &[u8]) {
        let toy = self.0.store();
        let expected = toy.value(key).await.map(|value| value.version);
        let keep = Duration::from_secs(3_600);
        let write = Write { key: key.clone(), bytes: bytes.to_vec(), expected, keep };
        let written = toy.store.write(&[write]).await.remove(0);
        assert!(matches!(written, Ok(Swap::Written(_))), "somebody else wrote the key");
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
