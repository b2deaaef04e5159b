//! A caller's key in place, and its hash.

use super::Keyspace;
use ahash::RandomState;
use sha2::{Digest, Sha512};
use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;

/// Up to 64 bytes in place, with zeros behind them: a decision allocates nothing for its key. The bytes come first and
/// aligned, as a key at an odd offset makes each of its moves wait for the one before.
#[derive(Clone)]
#[repr(C, align(8))]
pub(super) struct KeyBytes {
    words: [Word; 4],
    len: u8,
}

type Word = [u8; 16];

/// The length of a SHA-512 digest; longer than any key that is kept as it is.
const DIGEST: usize = 64;

/// Keys of up to so many bytes, which most are, are moved and hashed as two words in registers.
const SHORT: usize = 32;

/// With a secret seed, so that keys cannot be chosen to collide; one for the process, so that a key is hashed once.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl KeyBytes {
    /// A short key and the hash of its storage key, computed of the text and not of what was written, which would have
    /// to wait for the writing. `None`: it is long.
    #[inline(always)]
    pub(super) fn short(keyspace: Keyspace, key: &[u8]) -> Option<(Self, u64)> {
        let (len, [first, second]) = short(key)?;
        let words = [first.to_le_bytes(), second.to_le_bytes(), [0; 16], [0; 16]];
        Some((Self { words, len }, hash_short(keyspace, len, [first, second])))
    }

    /// A key that is not short, and the hash of its storage key.
    pub(super) fn long(keyspace: Keyspace, key: &[u8]) -> (Self, u64) {
        let mut words = [[0; 16]; 4];
        let bytes = words.as_flattened_mut();
        let len = match (bytes.get_mut(..key.len()), u8::try_from(key.len())) {
            (Some(kept), Ok(len)) if key.len() < DIGEST => {
                kept.copy_from_slice(key);
                len
            }
            _ => {
                bytes.copy_from_slice(&Sha512::digest(key));
                64
            }
        };
        let kept = Self { words, len };
        let hash = hash(keyspace, kept.as_slice());
        (kept, hash)
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        let bytes = self.words.as_flattened();
        bytes.get(..usize::from(self.len)).unwrap_or(bytes)
    }

    /// Whether the key is this one of up to 30 bytes, kept with zeros behind it.
    ///
    /// Compared in the halves of words in which a key is written: a load of what two stores wrote waits for both.
    #[inline(always)]
    pub(super) fn is_padded(&self, len: u8, key: &[u8; 30]) -> bool {
        let own = self.words.as_flattened();
        let (halves, others) = (own.as_chunks::<8>().0, key.as_chunks::<8>().0);
        self.len == len && halves[..3] == others[..3] && own[24..30] == key[24..30]
    }
}

/// The hash of a storage key, of the caller's key as it is kept.
#[inline]
pub(super) fn hash(keyspace: Keyspace, kept: &[u8]) -> u64 {
    match short(kept) {
        Some((len, words)) => hash_short(keyspace, len, words),
        None => {
            let mut hasher = HASHER.build_hasher();
            hasher.write_usize(keyspace.address());
            hasher.write(kept);
            hasher.finish()
        }
    }
}

#[inline(always)]
fn hash_short(keyspace: Keyspace, len: u8, words: [u128; 2]) -> u64 {
    let mut hasher = HASHER.build_hasher();
    // An address leaves its highest byte free.
    hasher.write_u64(keyspace.address() as u64 ^ u64::from(len) << 56);
    words.into_iter().for_each(|word| hasher.write_u128(word));
    hasher.finish()
}

/// The length of a short key, and its bytes as two words with zeros behind them; `None`: it is long.
#[inline(always)]
fn short(key: &[u8]) -> Option<(u8, [u128; 2])> {
    let len = u8::try_from(key.len()).ok().filter(|_| key.len() <= SHORT)?;
    let words = match (key.first_chunk(), key.last_chunk()) {
        (Some(first), Some(last)) => {
            // What the first word has too is shifted out; all of it if there is nothing else.
            let second = u128::from_le_bytes(*last).checked_shr(8 * (32 - u32::from(len))).unwrap_or(0);
            [u128::from_le_bytes(*first), second]
        }
        _ => {
            let mut first = [0; 16];
            first[..key.len()].copy_from_slice(key);
            [u128::from_le_bytes(first), 0]
        }
    };
    Some((len, words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Algorithm;

    fn of(keyspace: Keyspace, key: &[u8]) -> (KeyBytes, u64) {
        KeyBytes::short(keyspace, key).unwrap_or_else(|| KeyBytes::long(keyspace, key))
    }

    /// Of any length, a key is kept as it is, and hashed alike from the text and from what is kept.
    #[test]
    fn a_key_is_hashed_as_it_is_kept() {
        let keyspace = Keyspace::new("shop", "user", Algorithm::TokenBucket).unwrap();
        let text: Vec<u8> = (1..=100).collect();
        for len in 0..=text.len() {
            let (kept, hashed) = of(keyspace, &text[..len]);
            assert_eq!(hashed, hash(keyspace, kept.as_slice()), "{len} bytes");
            if len < DIGEST {
                assert_eq!(kept.as_slice(), &text[..len]);
                assert!(kept.words.as_flattened()[len..].iter().all(|byte| *byte == 0), "{len} bytes");
            }
        }
    }

    /// The length tells a key from the same one with a zero behind it, and each byte counts.
    #[test]
    fn short_keys_that_differ_are_told_apart() {
        let padded = |key: &[u8]| {
            let mut padded = [0; 30];
            padded[..key.len()].copy_from_slice(key);
            (u8::try_from(key.len()).unwrap(), padded)
        };
        let keys = (0..=30).flat_map(|len| {
            let zeros = vec![0_u8; len];
            let ones = (0..len).map(move |place| (0..len).map(|i| u8::from(i == place)).collect());
            ones.chain([zeros])
        });
        let keys: Vec<Vec<u8>> = keys.collect();
        let keyspace = Keyspace::new("shop", "user", Algorithm::TokenBucket).unwrap();
        for a in &keys {
            let (kept, hashed) = of(keyspace, a);
            for b in &keys {
                let (len, padded) = padded(b);
                assert_eq!(kept.is_padded(len, &padded), a == b, "{a:?} {b:?}");
                assert_eq!(hashed == hash(keyspace, b), a == b, "{a:?} {b:?}");
            }
        }
    }
}
