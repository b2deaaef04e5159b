//! Two storage keys are equal, as values and as bytes, only if all that they are made of is.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use limiter_core::{Algorithm, Keyspace};
use std::collections::HashSet;
use std::sync::{LazyLock, Mutex};

#[derive(Arbitrary, Debug, PartialEq)]
struct Parts<'a> {
    namespace: &'a str,
    rule: &'a str,
    algorithm: u8,
    key: &'a [u8],
}

/// Keyspaces live as long as the process: only so many are made.
static NAMES: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

fuzz_target!(|parts: [Parts<'_>; 2]| {
    let mut names = NAMES.lock().unwrap();
    for part in &parts {
        let name = format!("{:?} {:?}", part.namespace, part.rule);
        if names.len() > 100_000 && !names.contains(&name) {
            return;
        }
        names.insert(name);
    }
    let algorithm = |parts: &Parts<'_>| Algorithm::ALL[usize::from(parts.algorithm) % 5];
    let key = |parts: &Parts<'_>| {
        Keyspace::new(parts.namespace, parts.rule, algorithm(parts)).map(|keyspace| keyspace.key(parts.key))
    };
    let [a, b] = &parts;
    let (Ok(x), Ok(y)) = (key(a), key(b)) else { return };
    let same = (a.namespace, a.rule, a.key) == (b.namespace, b.rule, b.key) && algorithm(a) == algorithm(b);
    assert_eq!(x == y, same);
    assert_eq!(x.to_bytes() == y.to_bytes(), same);
});
