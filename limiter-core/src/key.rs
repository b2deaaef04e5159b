//! Storage keys: what a store files a state under, injective for any bytes that a caller sends.

mod bytes;

use crate::algorithm::Algorithm;
use bytes::KeyBytes;
use sha2::{Digest, Sha512};
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{LazyLock, Mutex, PoisonError};

/// The keys of one rule under one algorithm: a namespace, the rule's name, the algorithm and the version of
/// the state's format. Cheap to copy; equal names are the same keyspace.
///
/// Keyspaces come from configuration, never from traffic, and live as long as the process.
#[derive(Clone, Copy)]
pub struct Keyspace(&'static Names);

struct Names {
    /// How many keyspaces there were before.
    number: usize,
    namespace: Box<str>,
    rule: Box<str>,
    algorithm: Algorithm,
    /// What every key's bytes begin with, and its hash.
    prefix: Box<[u8]>,
    prefix_hash: u64,
}

/// By prefix, which is injective, and kept for good, so that a key carries a reference and no count that every core
/// would fight over.
static KEYSPACES: LazyLock<Mutex<HashMap<&'static [u8], Keyspace>>> = LazyLock::new(Mutex::default);

/// A name that no keyspace can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("name {name:?} has {} bytes, above {max}, the most a namespace or rule can have", name.len(), max = Keyspace::MAX_NAME)]
pub struct NameError {
    name: String,
}

impl Keyspace {
    /// The version of the states' format, which every key carries: two that differ never share a state.
    pub const FORMAT: u8 = 1;

    /// The most bytes a namespace or a rule's name can have: keys stay short enough for every store.
    pub const MAX_NAME: usize = 64;

    /// The keyspace of `rule` in `namespace` under `algorithm`.
    ///
    /// # Errors
    /// A name longer than [`Keyspace::MAX_NAME`] bytes.
    pub fn new(namespace: &str, rule: &str, algorithm: Algorithm) -> Result<Self, NameError> {
        if let Some(name) = [namespace, rule].into_iter().find(|name| name.len() > Self::MAX_NAME) {
            return Err(NameError { name: name.to_owned() });
        }
        let (n, r) = (namespace.len(), rule.len());
        let prefix = format!("rl{}:{algorithm}:{n}:{namespace}:{r}:{rule}:", Self::FORMAT).into_bytes();
        let mut all = KEYSPACES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&*prefix) {
            return Ok(*known);
        }
        let names: &'static Names = Box::leak(Box::new(Names {
            number: all.len(),
            namespace: namespace.into(),
            rule: rule.into(),
            algorithm,
            prefix_hash: fnv(FNV_START, &prefix),
            prefix: prefix.into(),
        }));
        all.insert(&names.prefix, Self(names));
        Ok(Self(names))
    }

    /// How many keyspaces of this process are older: a small number, for tables.
    #[inline]
    pub(crate) fn number(&self) -> usize {
        self.0.number
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &'static str {
        &self.0.namespace
    }

    /// The rule's name.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        &self.0.rule
    }

    /// The algorithm.
    #[must_use]
    #[inline]
    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    /// The storage key of a caller's key, any bytes.
    #[must_use]
    #[inline]
    pub fn key(self, key: &[u8]) -> StorageKey {
        self.short_key(key).unwrap_or_else(|| self.long_key(key))
    }

    /// The storage key of a key of up to 32 bytes, as nearly all are, without a call.
    #[inline(always)]
    pub(crate) fn short_key(self, key: &[u8]) -> Option<StorageKey> {
        let (key, hash) = KeyBytes::short(self, key)?;
        Some(StorageKey { keyspace: self, hash, key, placement: None })
    }

    /// The storage key of a longer one.
    #[inline(never)]
    pub(crate) fn long_key(self, key: &[u8]) -> StorageKey {
        let (key, hash) = KeyBytes::long(self, key);
        StorageKey { keyspace: self, hash, key, placement: None }
    }

    /// What tells it from every other in this process.
    #[inline(always)]
    fn address(self) -> usize {
        std::ptr::from_ref(self.0).addr()
    }

    /// The hash of a key of which `kept` is [what is kept](StorageKey::bytes).
    pub(crate) fn hash_of(self, kept: &[u8]) -> u64 {
        bytes::hash(self, kept)
    }
}

/// The keyspaces of one rule, one per algorithm: a quota picks its own, so that a rule's quota may change its algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyspaces {
    /// In the order of [`Algorithm::ALL`].
    by_algorithm: [Keyspace; 5],
}

impl Keyspaces {
    /// The keyspaces of `rule` in `namespace`.
    ///
    /// # Errors
    /// A name longer than [`Keyspace::MAX_NAME`] bytes.
    pub fn new(namespace: &str, rule: &str) -> Result<Self, NameError> {
        let [token, leaky, fixed, log, counter] =
            Algorithm::ALL.map(|algorithm| Keyspace::new(namespace, rule, algorithm));
        Ok(Self { by_algorithm: [token?, leaky?, fixed?, log?, counter?] })
    }

    /// The keyspace of an algorithm.
    #[must_use]
    #[inline]
    pub const fn of(&self, algorithm: Algorithm) -> Keyspace {
        self.by_algorithm[algorithm as usize]
    }

    /// All of them, in the order of [`Algorithm::ALL`].
    #[must_use]
    pub const fn all(&self) -> [Keyspace; 5] {
        self.by_algorithm
    }
}

impl PartialEq for Keyspace {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Keyspace {}

impl Hash for Keyspace {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::from_ref(self.0).hash(state);
    }
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace(), self.rule(), self.algorithm())
    }
}

/// The key that a store files one state under: a [`Keyspace`] and a caller's key.
///
/// Injective: two keys are equal only if their keyspaces and their callers' keys are. A caller's key of up to
/// 63 bytes is kept as it is; a longer one is kept as its SHA-512 digest, whose 64 bytes no shorter key has.
/// `Debug` shows the keyspace and withholds the caller's key.
///
/// # Example
/// ```
/// use limiter_core::{Algorithm, Keyspace};
///
/// let keys = Keyspace::new("shop", "per-user", Algorithm::TokenBucket)?;
/// assert_eq!(keys.key(b"42").to_bytes(), b"rl1:token-bucket:4:shop:8:per-user:42");
/// assert_eq!(format!("{:?}", keys.key(b"42")), "shop/per-user/token-bucket/..");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct StorageKey {
    keyspace: Keyspace,
    hash: u64,
    key: KeyBytes,
    placement: Option<Placement>,
}

impl StorageKey {
    /// The keyspace.
    #[must_use]
    #[inline]
    pub fn keyspace(&self) -> Keyspace {
        self.keyspace
    }

    /// The caller's key, or its digest: at most 64 bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.key.as_slice()
    }

    /// Its hash, with a secret seed of this process.
    #[inline(always)]
    pub(crate) fn hashed(&self) -> u64 {
        self.hash
    }

    /// Whether the caller's key is this one of up to 30 bytes, kept with zeros behind it.
    #[inline(always)]
    pub(crate) fn is_padded(&self, len: u8, key: &[u8; 30]) -> bool {
        self.key.is_padded(len, key)
    }

    /// The same key, placed: checks of one request whose keys have one placement are decided in one step also
    /// where a store is spread over many servers. A placement says where, not which: give a key always the
    /// same one.
    #[must_use]
    pub fn placed(self, placement: Placement) -> Self {
        Self { placement: Some(placement), ..self }
    }

    /// Where the key was placed; `None`: by its own hash.
    #[must_use]
    pub fn placement(&self) -> Option<Placement> {
        self.placement
    }

    /// The key as bytes: `rl`, format version, algorithm, namespace and rule behind their lengths, the
    /// caller's key last. Injective; any bytes may occur in it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.prefix(), self.bytes()].concat()
    }

    /// What [`to_bytes`](Self::to_bytes) begins with: all but the caller's key.
    #[must_use]
    pub fn prefix(&self) -> &'static [u8] {
        &self.keyspace.0.prefix
    }

    /// Where the key belongs among a store's servers: its placement, else a hash of its bytes. The same in every
    /// process and every release.
    #[must_use]
    pub fn place(&self) -> Placement {
        self.placement.unwrap_or_else(|| Placement(mixed(fnv(self.keyspace.0.prefix_hash, self.bytes()))))
    }
}

/// FNV-1a of 64 bits, <http://www.isthe.com/chongo/tech/comp/fnv/>: short, stable, and good enough to spread keys.
const fn fnv(start: u64, bytes: &[u8]) -> u64 {
    let (mut hash, mut i) = (start, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x100_0000_01b3);
        i += 1;
    }
    hash
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// The finalizer of SplitMix64, so that every bit of a hash is as good as any other.
const fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

impl PartialEq for StorageKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.keyspace == other.keyspace && self.bytes() == other.bytes()
    }
}

impl Eq for StorageKey {}

impl Hash for StorageKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/..", self.keyspace)
    }
}

/// A place among a store's servers, the same for the same bytes in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Placement(u64);

impl Placement {
    /// The placement of any bytes, such as a user's id for all of the rules that a user falls under.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = Sha512::digest(bytes);
        Self(digest.iter().take(8).fold(0, |place, byte| place << 8 | u64::from(*byte)))
    }

    /// The placement as a number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// How well a server, known by this placement of its name, suits what is placed there, for a store of several: of all
    /// scores the highest wins, so that a server that is added or taken away moves its own keys only (rendezvous hashing:
    /// Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998). The same in every release.
    ///
    /// # Example
    /// ```
    /// use limiter_core::{Algorithm, Keyspace, Placement};
    ///
    /// let servers = ["a:11211", "b:11211", "c:11211"];
    /// let place = Keyspace::new("shop", "user", Algorithm::TokenBucket)?.key(b"42").place();
    /// let server = servers.iter().max_by_key(|name| place.score(Placement::of(name.as_bytes())));
    /// assert_eq!(server, Some(&"c:11211"));
    /// # Ok::<(), limiter_core::NameError>(())
    /// ```
    #[must_use]
    pub const fn score(self, server: Self) -> u64 {
        mixed(self.0 ^ server.0)
    }
}
