//! A look into the servers, behind the store's back.

use async_trait::async_trait;
use limiter_core::{Algorithm, Backend, Check, Quota, Request, Shard, StorageKey};
use limiter_memcached::Memcached;
use limiter_testkit::Inside;
use limiter_testkit::servers;
use std::net::SocketAddr;

/// The store whose count of corrupt states is asked for, and the addresses of its servers.
pub(crate) struct Servers {
    memcached: Memcached,
    addresses: Vec<SocketAddr>,
}

impl Servers {
    pub(crate) fn new(memcached: Memcached, url: &str) -> Self {
        let addresses = url.strip_prefix("memcached://").map(|addresses| addresses.split(','));
        let addresses = addresses.and_then(|all| all.map(|address| address.parse().ok()).collect());
        let addresses = addresses.unwrap_or_else(|| panic!("{url} has no addresses of Memcached"));
        Self { memcached, addresses }
    }

    /// Where the store is to look for the key.
    fn place(&self, key: &StorageKey) -> SocketAddr {
        let quota = Quota::per_second(1).algorithm(key.keyspace().algorithm()).build().expect("a quota");
        let asked = Request::one(Check { key: key.clone(), quota, cost: 0 }).expect("one check");
        let Shard::One(server) = self.memcached.shard(&asked) else { panic!("one key, one server") };
        self.addresses[server as usize]
    }
}

fn command(address: SocketAddr, command: &[u8]) -> Vec<u8> {
    servers::Memcached::command_at(address, command).expect("a command that Memcached takes")
}

/// The key as Memcached holds it, by a reader of the documentation.
pub(crate) fn name(key: &StorageKey) -> String {
    let shown = |byte: &u8| match byte {
        b'!'..=b'~' if *byte != b'%' => char::from(*byte).to_string(),
        _ => format!("%{byte:02x}"),
    };
    key.to_bytes().iter().map(shown).collect()
}

#[async_trait]
impl Inside for Servers {
    async fn holds(&self, key: &StorageKey) -> bool {
        self.read(key).await.is_some()
    }

    async fn read(&self, key: &StorageKey) -> Option<Vec<u8>> {
        let get = format!("mg {} v", name(key));
        let held = self.addresses.iter().filter_map(|address| {
            let reply = command(*address, get.as_bytes());
            let behind = reply.strip_prefix(b"VA ")?;
            let line = behind.iter().position(|byte| *byte == b'\n')? + 1;
            Some((*address, behind[line..].strip_suffix(b"\r\n")?.to_vec()))
        });
        let mut held: Vec<_> = held.collect();
        let (address, bytes) = held.pop()?;
        assert!(held.is_empty() && address == self.place(key), "it is on another server than its own");
        Some(bytes)
    }

    async fn write(&self, key: &StorageKey, bytes: &[u8]) {
        let head = format!("ms {} {} T3600\r\n", name(key), bytes.len());
        let reply = command(self.place(key), &[head.as_bytes(), bytes].concat());
        assert_eq!(reply, b"HD\r\n");
    }

    async fn write_another_type(&self, _key: &StorageKey) -> bool {
        false
    }

    fn garbage(&self, algorithm: Algorithm) -> Vec<Vec<u8>> {
        // Another version, a number that does not end, one above all, and fields too many.
        let far = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        let mut all = vec![vec![2, 1], vec![1, 0x80], [&[1][..], &far].concat(), vec![1, 1, 1, 1, 1, 1, 1]];
        match algorithm {
            // A remainder that is no part of a us, and one of nothing.
            Algorithm::TokenBucket | Algorithm::LeakyBucket => {
                all.extend([vec![1, 1, 7, 7], vec![1, 1, 0, 7]])
            }
            Algorithm::FixedWindow | Algorithm::SlidingCounter => all.push(vec![1, 1]),
            // More entries than there are, none of a cost, two at one time.
            Algorithm::SlidingLog => all.extend([vec![1, 2, 1, 1], vec![1, 1, 1, 0], vec![1, 2, 1, 1, 0, 1]]),
        }
        all
    }

    fn corrupt_states(&self) -> u64 {
        self.memcached.corrupt_states()
    }
}
