//! What a table holds: a state, and what it is filed under.

use super::table::Slot;
use crate::key::{Keyspace, StorageKey};

/// A state and its key. One of a bucket, with a key of up to 30 bytes, is a cache line, and is found by one look at
/// memory.
pub(super) struct Entry<T: Slot> {
    _align: T::Align,
    pub(super) keyspace: Keyspace,
    key: Key,
    pub(super) slot: T,
}

/// Aligns an [`Entry`] that is as long as a cache line.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct CacheLine;

/// A caller's key as it is kept.
enum Key {
    /// Its length, and the key with zeros behind it.
    Short(u8, [u8; 30]),
    Long(Box<[u8]>),
}

impl<T: Slot> Entry<T> {
    pub(super) fn new(key: &StorageKey, slot: T) -> Self {
        let bytes = key.bytes();
        let mut short = [0; 30];
        let kept = match (short.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(bytes);
                Key::Short(len, short)
            }
            _ => Key::Long(bytes.into()),
        };
        Self { _align: T::Align::default(), keyspace: key.keyspace(), key: kept, slot }
    }

    /// Whether it is filed under `key`.
    #[inline(always)]
    pub(super) fn is(&self, key: &StorageKey) -> bool {
        self.keyspace == key.keyspace()
            && match &self.key {
                Key::Short(len, bytes) => key.is_padded(*len, bytes),
                Key::Long(bytes) => **bytes == *key.bytes(),
            }
    }

    /// The caller's key, as [`StorageKey::bytes`] has it.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.key {
            Key::Short(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Key::Long(bytes) => bytes,
        }
    }

    /// Its key's hash.
    pub(super) fn hash(&self) -> u64 {
        self.keyspace.hash_of(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algorithm::Bucket;

    #[test]
    fn a_bucket_and_its_key_are_a_cache_line() {
        assert_eq!((size_of::<Entry<Bucket>>(), align_of::<Entry<Bucket>>()), (64, 64));
    }
}
