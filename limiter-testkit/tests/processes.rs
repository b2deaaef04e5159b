//! Several processes on one key: a store that counts in one step passes, one that reads and then writes is found out.
//!
//! Without arguments of its own this program tests the suite, by running itself as a suite over both stores.
#![expect(clippy::expect_used, reason = "helpers of tests")]

use async_trait::async_trait;
use limiter_core::{
    Backend, BackendError, Figure, Locality, Quota, QuotaError, Request, Shard, StorageKey, Verdict,
};
use limiter_testkit::servers::{resp::Connection, shared};
use limiter_testkit::{Harness, Reference};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::Duration;

/// Fixed windows that never end, in Redis: as much as the case needs.
struct Counter {
    redis: Mutex<Connection>,
    in_one_step: bool,
}

impl Counter {
    fn open(in_one_step: bool) -> Self {
        let url = shared::redis_url().expect("a Redis");
        let addr =
            url.strip_prefix("redis://").and_then(|addr| addr.parse().ok()).expect("host and port alone");
        let redis = Connection::tcp(addr, Duration::from_secs(60)).expect("a connection");
        Self { redis: Mutex::new(redis), in_one_step }
    }

    /// The number of this request on its key.
    fn count(&self, key: &StorageKey) -> i64 {
        let mut redis = self.redis.lock().expect("no panic");
        let mut command = |words: &[&[u8]]| redis.command(words).expect("an answer");
        let key = key.to_bytes();
        if self.in_one_step {
            return command(&[b"INCR", &key]).int().expect("a number");
        }
        let count = command(&[b"GET", &key]).int().unwrap_or(0) + 1;
        command(&[b"SET", &key, count.to_string().as_bytes()]);
        count
    }
}

#[async_trait]
impl Backend for Counter {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        let answer = |request: &Request| {
            let [check] = request.checks() else { panic!("the case asks for one key") };
            let mut decision = Reference::new().decide(request.checks(), request.now()).remove(0);
            decision.allowed = self.count(&check.key) <= i64::try_from(check.quota.limit()).expect("small");
            Ok(Verdict::one(decision))
        };
        batch.iter().map(answer).collect()
    }

    fn decide_now(&self, _request: &Request) -> Option<Result<Verdict, BackendError>> {
        None
    }

    fn shard(&self, _request: &Request) -> Shard {
        Shard::One(0)
    }

    fn accepts(&self, _quota: &Quota) -> Result<(), QuotaError> {
        Ok(())
    }

    async fn reset(&self, _keys: &[StorageKey]) -> Result<(), BackendError> {
        Ok(())
    }

    async fn ready(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    fn may_forget(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "counter"
    }

    fn report(&self, _tell: &mut dyn FnMut(Figure)) {}
}

const ROLE: &str = "TEST_OF_PROCESSES_ROLE";
const CASE: &str = "race::processes_on_one_key_admit_exactly_the_limit::fixed_window";

/// Whether the case passes on the store of this name, and what it prints.
fn passes(store: &str) -> (bool, String) {
    let program = std::env::current_exe().expect("the path of this test");
    let suite =
        Command::new(program).env(ROLE, "suite").args(["--exact", &format!("{store}::{CASE}")]).output();
    let suite = suite.expect("this program again");
    let printed =
        [suite.stdout, suite.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(printed.contains("running 1 test"), "{printed}");
    (suite.status.success(), printed)
}

fn main() -> ExitCode {
    if std::env::var_os(ROLE).is_some() {
        return limiter_testkit::main([
            Harness::new("sound", async || Counter::open(true)).across_processes(),
            Harness::new("buggy", async || Counter::open(false)).across_processes(),
        ]);
    }
    let (sound, printed) = passes("sound");
    assert!(sound, "{printed}");
    let (buggy, printed) = passes("buggy");
    assert!(!buggy && printed.contains("of 2560 requests"), "{printed}");
    ExitCode::SUCCESS
}
