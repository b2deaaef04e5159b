//! A look into a server, behind the store's back.

use async_trait::async_trait;
use limiter_core::{Algorithm, StorageKey};
use limiter_redis::Redis;
use limiter_redis::redis::{Client, Cmd, Connection, Value};
use limiter_testkit::Inside;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Connections of the test's own to all servers that may have a key, and the store whose count of corrupt states is asked
/// for.
pub(crate) struct Servers {
    redis: Redis,
    connections: Mutex<Vec<Connection>>,
}

impl Servers {
    /// The server of a URL, or the nodes of a cluster, whatever a URL of the driver may hold.
    pub(crate) fn new<U: AsRef<str>>(redis: Redis, urls: impl IntoIterator<Item = U>) -> Self {
        let connections = urls.into_iter().map(|url| connect(url.as_ref())).collect();
        Self { redis, connections: Mutex::new(connections) }
    }

    /// The primary that a sentinel names.
    pub(crate) fn behind(redis: Redis, sentinel: &str, service: &str) -> Self {
        let mut ask = Cmd::new();
        ask.arg("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        let (host, port): (String, u16) = ask.query(&mut connect(sentinel)).expect("a primary");
        Self::new(redis, [format!("redis://{host}:{port}")])
    }

    fn command(&self, words: &[&[u8]]) -> Value {
        let mut command = Cmd::new();
        words.iter().for_each(|word| {
            command.arg(*word);
        });
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answers = connections.iter_mut().map(|connection| command.query(connection));
        let answer =
            answers.find(|answer| !answer.as_ref().is_err_and(|error| error.code() == Some("MOVED")));
        answer.expect("a server that has the key's slot").expect("a command that Redis takes")
    }
}

fn connect(url: &str) -> Connection {
    let client = Client::open(url).expect("a URL of Redis");
    let connection = client.get_connection().expect("a connection");
    connection.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    connection
}

/// The key as Redis holds it: the last 16 bits of its place as a tag, then its bytes.
fn name(key: &StorageKey) -> Vec<u8> {
    let tag = format!("{{{:04x}}}", key.place().as_u64() & 0xffff);
    [tag.as_bytes(), key.prefix(), key.bytes()].concat()
}

#[async_trait]
impl Inside for Servers {
    async fn holds(&self, key: &StorageKey) -> bool {
        self.command(&[b"EXISTS", &name(key)]) == Value::Int(1)
    }

    async fn read(&self, key: &StorageKey) -> Option<Vec<u8>> {
        match self.command(&[b"GET", &name(key)]) {
            Value::BulkString(bytes) => Some(bytes),
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
