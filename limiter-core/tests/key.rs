//! Storage keys: injective for any bytes, and silent about them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use limiter_core::{Algorithm, Caller, Check, Keyspace, Placement, Quota, Request, RequestError, StorageKey};
use proptest::prelude::*;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

fn keyspace(namespace: &str, rule: &str) -> Keyspace {
    Keyspace::new(namespace, rule, Algorithm::TokenBucket).unwrap()
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof!["[ab:0-9]{0,4}", "\\PC{0,16}"]
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    let near = prop::sample::select(&[0_usize, 1, 31, 62, 63, 64, 65, 128][..]);
    prop_oneof![
        prop::collection::vec(prop::sample::select(&b"ab:01{}"[..]), 0..6),
        prop::collection::vec(any::<u8>(), 0..80),
        (near, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(4_096),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn two_keys_are_equal_only_if_all_their_parts_are(
        a in (any_name(), any_name(), prop::sample::select(&Algorithm::ALL[..]), any_key()),
        b in (any_name(), any_name(), prop::sample::select(&Algorithm::ALL[..]), any_key()),
    ) {
        let key = |(namespace, rule, algorithm, key): &(String, String, Algorithm, Vec<u8>)| {
            Keyspace::new(namespace, rule, *algorithm).unwrap().key(key)
        };
        prop_assert_eq!(a == b, key(&a) == key(&b));
        prop_assert_eq!(a == b, key(&a).to_bytes() == key(&b).to_bytes());
        prop_assert_eq!(key(&a), key(&a));
    }

    #[test]
    fn debug_withholds_the_key(secret in "[a-z]{12,100}") {
        let key = keyspace("shop", "user").key(secret.as_bytes());
        let check = Check { key: key.clone(), quota: Quota::per_second(1).build().unwrap(), cost: 1 };
        let request = Request::new([check]).unwrap();
        let caller = Caller::new().with("user", &secret);
        let shown = format!("{key:?} {request:?} {caller:?} {:?}", Caller::from(&secret));
        prop_assert!(!shown.contains(&secret[..12]), "{shown}");
    }
}

#[test]
fn a_key_that_is_the_digest_of_another_is_not_it() {
    let long = keyspace("shop", "user").key(&[7; 100_000]);
    assert_eq!(long.bytes().len(), 64);
    let impostor = keyspace("shop", "user").key(long.bytes());
    assert_ne!(long, impostor);
}

#[test]
fn every_byte_may_occur() {
    let keys: Vec<_> = (0..=255).map(|byte| keyspace("shop", "user").key(&[byte]).to_bytes()).collect();
    let distinct: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), 256);
}

#[test]
fn a_name_that_is_too_long_is_refused() {
    let error = Keyspace::new(&"n".repeat(65), "rule", Algorithm::TokenBucket).unwrap_err();
    assert!(error.to_string().ends_with("has 65 bytes, above 64, the most a namespace or rule can have"));
}

#[test]
fn a_request_refuses_checks_that_make_none() {
    let key = |algorithm| Keyspace::new("shop", "user", algorithm).unwrap().key(b"42");
    let quota = Quota::per_second(1).build().unwrap();
    let check = Check { key: key(Algorithm::TokenBucket), quota, cost: 1 };
    assert_eq!(Request::new([]).unwrap_err(), RequestError::Empty);
    let twice = Request::new([check.clone(), check.clone()]).unwrap_err();
    assert_eq!(twice.to_string(), "checks 0 and 1 have one key of shop/user/token-bucket");
    let mixed = Request::new([Check { key: key(Algorithm::FixedWindow), ..check }]).unwrap_err();
    assert_eq!(
        mixed.to_string(),
        "check 0: the key is one of shop/user/fixed-window, the quota is a token-bucket"
    );
}

/// A map whose keys all hash alike is a list.
#[test]
fn keys_hash_by_all_their_parts() {
    let hash = |key: &StorageKey| BuildHasherDefault::<DefaultHasher>::new().hash_one(key);
    let key = |rule, key| keyspace("shop", rule).key(key);
    assert_eq!(hash(&key("user", b"1")), hash(&key("user", b"1")));
    assert_ne!(hash(&key("user", b"1")), hash(&key("user", b"2")));
    assert_ne!(hash(&key("user", b"1")), hash(&key("endpoint", b"1")));
}

#[test]
fn a_placement_says_where_a_key_is_and_not_which() {
    let key = || keyspace("shop", "user").key(b"42");
    let placed = key().placed(Placement::of(b"user 42"));
    assert_eq!((key().placement(), placed.placement()), (None, Some(Placement::of(b"user 42"))));
    assert_eq!((&placed, placed.to_bytes()), (&key(), key().to_bytes()));
}

/// What stands in the store must be found by the next version, and by every instance.
#[test]
fn the_stored_form_is_stable() {
    let prefix = b"rl1:token-bucket:4:shop:4:user:";
    let stored = keyspace("shop", "user").key(&[b'x'; 64]).to_bytes();
    let digest = stored.strip_prefix(prefix).unwrap();
    let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    // As `printf 'x%.0s' {1..64} | sha512sum` and `printf 42 | sha512sum` say.
    assert_eq!((digest.len(), hex.as_str()), (64, "791c91ff44685987"));
    assert_eq!(Placement::of(b"42").as_u64(), 0x39ca7ce9ecc69f69);
}

/// Other processes and later releases must find the same server: these numbers never change.
#[test]
fn a_place_is_the_same_for_ever() {
    let key = keyspace("shop", "user").key(b"42");
    assert_eq!(key.place().as_u64(), PLACE_OF_42);
    assert_eq!(key.clone().placed(Placement::of(b"42")).place(), Placement::of(b"42"));
    assert_ne!(keyspace("shop", "users").key(b"42").place(), key.place());
}

const PLACE_OF_42: u64 = 0x0e0f_0844_60c9_5eb4;

#[test]
fn places_are_spread_evenly() {
    let mut servers = [0_u32; 16];
    for i in 0..16_000 {
        let place = keyspace("shop", "user").key(format!("user:{i}").as_bytes()).place().as_u64();
        servers[usize::try_from(place % 16).unwrap()] += 1;
    }
    assert!(servers.iter().all(|keys| (850..1_150).contains(keys)), "{servers:?}");
}
