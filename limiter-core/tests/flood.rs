//! A flood of made-up keys: memory stays flat, and keys that are used up stay so.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use limiter_core::{Algorithm, Backend, Check, Keyspace, Memory, Quota, Request};
use std::num::NonZeroUsize;

/// Ten million keys in an optimized build; a debug build would take a minute.
const FLOOD: u64 = if cfg!(debug_assertions) { 2_000_000 } else { 10_000_000 };
const CAPACITY: usize = 100_000;
/// So many keys fill every part of the store, and every shared state.
const FULL: u64 = 1_000_000;
const VICTIMS: u64 = 1_000;

fn resident_kib() -> u64 {
    let pid = std::process::id().to_string();
    let ps = std::process::Command::new("ps").args(["-o", "rss=", "-p", &pid]).output();
    let text = String::from_utf8(ps.unwrap().stdout).unwrap();
    text.trim().parse().unwrap()
}

fn allowed(memory: &Memory, keyspace: Keyspace, key: &[u8], quota: Quota) -> bool {
    let request = Request::new([Check { key: keyspace.key(key), quota, cost: 1 }]).unwrap();
    memory.decide_now(&request).unwrap().unwrap().allowed()
}

#[test]
fn a_flood_frees_no_key_and_takes_no_memory() {
    let memory = Memory::builder().max_keys(NonZeroUsize::new(CAPACITY).unwrap()).build();
    let keyspaces = Algorithm::ALL.map(|a| Keyspace::new("test", "flood", a).unwrap());
    let quotas = Algorithm::ALL.map(|a| Quota::per_day(1).algorithm(a).build().unwrap());
    let victim = |i: u64| {
        let which = usize::try_from(i).unwrap() % keyspaces.len();
        allowed(&memory, keyspaces[which], format!("victim {i}").as_bytes(), quotas[which])
    };
    assert!((0..VICTIMS).all(victim));
    assert!(!(0..VICTIMS).any(victim), "used up");

    // Once the store is full, each further key is one that it cannot keep.
    let flood = |from: u64, to: u64| {
        for i in from..to {
            let which = usize::try_from(i).unwrap() % keyspaces.len();
            allowed(&memory, keyspaces[which], &i.to_le_bytes(), quotas[which]);
        }
    };
    flood(0, FULL);
    let (full, usage) = (resident_kib(), memory.usage());
    assert_eq!(usage.keys, CAPACITY / 64 * 64, "64 parts of one size");
    flood(FULL, FLOOD);

    assert_eq!(memory.usage(), usage);
    let grown = resident_kib().saturating_sub(full);
    assert!(grown < 1_024, "{grown} KiB more after {FLOOD} keys");
    assert!(!(0..VICTIMS).any(victim), "a used-up key was freed");
    println!("{FLOOD} keys: {full} KiB resident once full, {grown} KiB more at the end; {usage:?}");
}
