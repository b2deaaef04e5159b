//! Keys as Memcached takes them: visible characters, at most 250 bytes.

use limiter_core::StorageKey;
use sha2::{Digest, Sha512_256};

/// The most bytes of a key, [protocol.txt](https://github.com/memcached/memcached/blob/master/doc/protocol.txt).
pub(crate) const MOST: usize = 250;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The key's text. Injective: what is escaped can be read back and begins with `rl1:`; what is digested begins with
/// `rl1#`.
pub(crate) fn text(key: &StorageKey) -> Vec<u8> {
    let (prefix, bytes) = (key.prefix(), key.bytes());
    let mut text = Vec::with_capacity(MOST);
    for byte in prefix.iter().chain(bytes) {
        match byte {
            b'%' | 0..=b' ' | 0x7f.. => {
                text.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            _ => text.push(*byte),
        }
        if text.len() > MOST {
            return digest(prefix, bytes);
        }
    }
    text
}

fn digest(prefix: &[u8], bytes: &[u8]) -> Vec<u8> {
    let digest = Sha512_256::new().chain_update(prefix).chain_update(bytes).finalize();
    let hex = digest.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    b"rl1#".iter().copied().chain(hex).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use limiter_core::{Algorithm, Keyspace};
    use proptest::prelude::*;

    fn key(rule: &str, bytes: &[u8]) -> StorageKey {
        Keyspace::new("shop", rule, Algorithm::TokenBucket).unwrap().key(bytes)
    }

    #[test]
    fn plain_keys_stay_readable() {
        assert_eq!(text(&key("user", b"42")), b"rl1:token-bucket:4:shop:4:user:42");
        assert_eq!(text(&key("user", b"a b%\r\n\xff")), b"rl1:token-bucket:4:shop:4:user:a%20b%25%0d%0a%ff");
    }

    #[test]
    fn long_keys_are_digested() {
        let (long, other) = (text(&key("user", &[b' '; 63])), text(&key("user", &[b'\t'; 63])));
        // 32 bytes before the key, three for each of its 63, and five left over.
        assert_eq!(long.len(), 32 - 1 + 3 * 63);
        assert_ne!(long, other);
        let name = "é".repeat(32);
        let (long, other) = (text(&key(&name, &[b' '; 63])), text(&key(&name, &[b'\t'; 63])));
        assert_eq!((long.len(), &long[..4]), (68, &b"rl1#"[..]));
        assert_ne!(long, other);
    }

    /// What was escaped, unescaped.
    fn unescaped(text: &[u8]) -> Vec<u8> {
        let mut rest = text.iter();
        let mut bytes = Vec::new();
        while let Some(byte) = rest.next() {
            if *byte == b'%' {
                let digits: Vec<u8> = rest.by_ref().take(2).copied().collect();
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            } else {
                bytes.push(*byte);
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn any_key_is_legal_and_can_be_told_from_others(rule in ".{0,16}", bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let key = key(&rule, &bytes);
            let text = text(&key);
            prop_assert!(text.len() <= MOST);
            prop_assert!(text.iter().all(u8::is_ascii_graphic));
            if !text.starts_with(b"rl1#") {
                prop_assert_eq!(unescaped(&text), key.to_bytes());
            }
        }
    }
}
