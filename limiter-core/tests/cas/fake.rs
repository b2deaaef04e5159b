//! A store with compare-and-swap that does as it is told, and counts what it is asked.

use async_trait::async_trait;
use limiter_core::{BackendError, CasStore, Effect, ErrorKind, StorageKey, Swap, Value, Write};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

/// Clones share one store. Each call takes [`TRIP`].
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    values: HashMap<StorageKey, Value>,
    last: u64,
    /// Keys with a write on its way.
    swapping: HashSet<StorageKey>,
    reads: u64,
    writes: u64,
    applied: u64,
    reading: Mood,
    writing: Mood,
    most_bytes: Option<u64>,
    may_forget: bool,
}

/// How long each call takes.
pub(crate) const TRIP: Duration = Duration::from_millis(4);

/// What it does when it is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Every key has changed.
    Busy,
    /// Nothing is applied, and it says so.
    Refusing,
    /// It is applied, and no answer comes.
    Deaf,
    /// Nothing comes back, ever.
    Hung,
    Panicking,
    /// It leaves out the answers.
    Short,
}

impl Fake {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reading(&self, mood: Mood) {
        self.inner().reading = mood;
    }

    pub(crate) fn writing(&self, mood: Mood) {
        self.inner().writing = mood;
    }

    pub(crate) fn allow_bytes(&self, most: u64) {
        self.inner().most_bytes = Some(most);
    }

    pub(crate) fn may_forget(&self) {
        self.inner().may_forget = true;
    }

    fn apply(&self, writes: &[Write], mood: Mood) -> Vec<Result<Swap, BackendError>> {
        let mut inner = self.inner();
        inner.swapping.retain(|key| writes.iter().all(|write| write.key != *key));
        if mood == Mood::Refusing {
            let error = error(ErrorKind::Unavailable, Effect::NotApplied);
            return writes.iter().map(|_| Err(error.clone())).collect();
        }
        let mut apply = |write: &Write| {
            let version = inner.values.get(&write.key).map(|value| value.version);
            if mood == Mood::Busy || version != write.expected {
                return Ok(Swap::Changed);
            }
            inner.last += 1;
            inner.applied += 1;
            let value = Value { bytes: write.bytes.clone(), version: inner.last };
            inner.values.insert(write.key.clone(), value);
            Ok(Swap::Written(Some(inner.last)))
        };
        writes.iter().map(&mut apply).collect()
    }

    /// Keys that were read, keys that were to be written, and writes that were applied.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let inner = self.inner();
        (inner.reads, inner.writes, inner.applied)
    }
}

fn error(kind: ErrorKind, effect: Effect) -> BackendError {
    BackendError::new(kind, effect, "fake", "decide", "as it was told")
}

#[async_trait]
impl CasStore for Fake {
    async fn read(&self, keys: &[StorageKey]) -> Vec<Result<Option<Value>, BackendError>> {
        let mood = {
            let mut inner = self.inner();
            inner.reads += keys.len() as u64;
            inner.reading
        };
        sleep(TRIP).await;
        match mood {
            Mood::Refusing => {
                let error = error(ErrorKind::Unavailable, Effect::NotApplied);
                return keys.iter().map(|_| Err(error.clone())).collect();
            }
            Mood::Hung => std::future::pending().await,
            Mood::Panicking => panic!("as it was told"),
            Mood::Short => return Vec::new(),
            Mood::Well | Mood::Busy | Mood::Deaf => {}
        }
        let inner = self.inner();
        keys.iter().map(|key| Ok(inner.values.get(key).cloned())).collect()
    }

    async fn write(&self, writes: &[Write]) -> Vec<Result<Swap, BackendError>> {
        let mood = {
            let mut inner = self.inner();
            inner.writes += writes.len() as u64;
            for write in writes {
                assert!(inner.swapping.insert(write.key.clone()), "two swaps of {:?} at once", write.key);
            }
            inner.writing
        };
        sleep(TRIP).await;
        let done = self.apply(writes, mood);
        match mood {
            Mood::Hung => std::future::pending().await,
            Mood::Panicking => panic!("as it was told"),
            Mood::Short => Vec::new(),
            Mood::Deaf => {
                let error = error(ErrorKind::Timeout, Effect::Unknown);
                writes.iter().map(|_| Err(error.clone())).collect()
            }
            Mood::Well | Mood::Busy | Mood::Refusing => done,
        }
    }

    async fn delete(&self, keys: &[StorageKey]) -> Vec<Result<(), BackendError>> {
        sleep(TRIP).await;
        let mut inner = self.inner();
        inner.values.retain(|key, _| !keys.contains(key));
        keys.iter().map(|_| Ok(())).collect()
    }

    fn may_forget(&self) -> bool {
        self.inner().may_forget
    }

    async fn ready(&self) -> Result<(), BackendError> {
        sleep(TRIP).await;
        match self.inner().reading {
            Mood::Panicking => panic!("as it was told"),
            Mood::Refusing => Err(error(ErrorKind::Unavailable, Effect::NotApplied)),
            _ => Ok(()),
        }
    }

    fn most_bytes(&self) -> u64 {
        self.inner().most_bytes.unwrap_or(u64::MAX)
    }
}
