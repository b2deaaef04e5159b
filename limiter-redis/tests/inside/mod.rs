//! A look into a server, behind the store's back.

use async_trait::async_trait;
use limiter_core::{Algorithm, StorageKey};
use limiter_redis::Redis;
use limiter_testkit::Inside;
use limiter_testkit::servers::resp::{Connection, Value};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A connection of the test's own, and the store whose count of corrupt states is asked for.
pub(crate) struct Server {
    redis: Redis,
    connection: Mutex<Connection>,
}

impl Server {
    pub(crate) fn new(redis: Redis, url: &str) -> Self {
        let address = url.strip_prefix("redis://").and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("{url} is no address of a plain Redis"));
        let connection = Connection::tcp(address, Duration::from_secs(20)).expect("a connection");
        Self { redis, connection: Mutex::new(connection) }
    }

    fn command(&self, words: &[&[u8]]) -> Value {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.command(words).expect("a command that Redis takes")
    }
}

/// The key as Redis holds it: the last 16 bits of its place as a tag, then its bytes.
fn name(key: &StorageKey) -> Vec<u8> {
    let tag = format!("{{{:04x}}}", key.place().as_u64() & 0xffff);
    [tag.as_bytes(), key.prefix(), key.bytes()].concat()
}

#[async_trait]
impl Inside for Server {
    async fn holds(&self, key: &StorageKey) -> bool {
        self.command(&[b"EXISTS", &name(key)]).int() == Some(1)
    }

    async fn read(&self, key: &StorageKey) -> Option<Vec<u8>> {
        match self.command(&[b"GET", &name(key)]) {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    async fn write(&self, key: &StorageKey, bytes: &[u8]) {
        self.command(&[b"SET", &name(key), bytes, b"PX", b"3600000"]);
    }

    async fn write_another_type(&self, key: &StorageKey) -> bool {
        self.command(&[b"DEL", &name(key)]);
        self.command(&[b"RPUSH", &name(key), b"x"]);
        self.command(&[b"PEXPIRE", &name(key), b"3600000"]);
        true
    }

    fn garbage(&self, algorithm: Algorithm) -> Vec<Vec<u8>> {
        let doubles = |numbers: &[f64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        match algorithm {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => vec![
                b"-1".to_vec(),
                b"1e300".to_vec(),
                b"nan".to_vec(),
                b"inf".to_vec(),
                b"1.5".to_vec(),
                doubles(&[1.0, 7.0, 7.0]),
                doubles(&[f64::NAN, 0.0, 1.0]),
            ],
            Algorithm::FixedWindow => vec![doubles(&[f64::INFINITY, 1.0]), doubles(&[-1.0, 1.0])],
            Algorithm::SlidingCounter => vec![doubles(&[0.5, 1.0, 1.0]), doubles(&[1.0, 1.0, f64::NAN])],
            Algorithm::SlidingLog => vec![vec![0; 35], vec![0xff; 35], vec![0xff; 70]],
        }
    }

    fn corrupt_states(&self) -> u64 {
        self.redis.corrupt_states()
    }
}
