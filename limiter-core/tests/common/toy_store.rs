use async_trait::async_trait;
use limiter_core::{BackendError, CasStore, StorageKey, Swap, Value, Write};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

/// Of each key the value and when it ends.
type Values = HashMap<StorageKey, (Value, Instant)>;

#[derive(Debug, Default)]
pub(crate) struct Toy {
    /// And the last version.
    values: Mutex<(u64, Values)>,
}

#[async_trait]
impl CasStore for Toy {
    async fn read(&self, keys: &[StorageKey]) -> Vec<Result<Option<Value>, BackendError>> {
        let values = &self.values.lock().unwrap().1;
        let live = |key| values.get(key).filter(|(_, end)| *end > Instant::now());
        keys.iter().map(|key| Ok(live(key).map(|(value, _)| value.clone()))).collect()
    }

    async fn write(&self, writes: &[Write]) -> Vec<Result<Swap, BackendError>> {
        let (last, values) = &mut *self.values.lock().unwrap();
        values.retain(|_, (_, end)| *end > Instant::now());
        let mut write = |write: &Write| {
            if values.get(&write.key).map(|(value, _)| value.version) != write.expected {
                return Ok(Swap::Changed);
            }
            *last += 1;
            let value = Value { bytes: write.bytes.clone(), version: *last };
            values.insert(write.key.clone(), (value, Instant::now() + write.keep));
            Ok(Swap::Written(Some(*last)))
        };
        writes.iter().map(&mut write).collect()
    }

    async fn delete(&self, keys: &[StorageKey]) -> Vec<Result<(), BackendError>> {
        let values = &mut self.values.lock().unwrap().1;
        values.retain(|key, _| !keys.contains(key));
        keys.iter().map(|_| Ok(())).collect()
    }
}
