//! A look inside a store, past the backend that uses it.

use async_trait::async_trait;
use limiter_core::{Algorithm, StorageKey};

/// What a test can do to a store behind a backend's back; it panics where the store refuses.
///
/// The bytes of a state are what the store keeps for it. A store that keeps no bytes, but fields, chooses bytes for what
/// it has, as a dump would.
#[async_trait]
pub trait Inside: Send + Sync + 'static {
    /// Whether the store keeps anything for this key.
    async fn holds(&self, key: &StorageKey) -> bool;

    /// The bytes of the key's state.
    async fn read(&self, key: &StorageKey) -> Option<Vec<u8>>;

    /// Puts bytes in the place of the key's state, to stay for an hour at least.
    async fn write(&self, key: &StorageKey, bytes: &[u8]);

    /// Puts a value of another type than states have in the place of the key's state; `false` where the store has but
    /// one type, and nothing was done.
    async fn write_another_type(&self, key: &StorageKey) -> bool;

    /// Bytes that look like a state of this algorithm and are none: numbers out of range, fields that contradict each
    /// other, another version.
    fn garbage(&self, algorithm: Algorithm) -> Vec<Vec<u8>>;

    /// How many states the backend has found that were none.
    fn corrupt_states(&self) -> u64;
}
