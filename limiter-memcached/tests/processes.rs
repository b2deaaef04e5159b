//! Sixty-four processes on one key: this program again, each with callers of its own.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{ask, server, taken, url};
use limiter_core::{CasConfig, ErrorKind};
use limiter_memcached::Memcached;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

const PROCESSES: usize = 64;
const TASKS: usize = 2;
/// A window that does not end in the test.
const QUOTA: &str = "1000/3000days fixed-window";
/// Tells this program that it is one of them, and where the server is.
const VARIABLE: &str = "LIMITER_MEMCACHED_TESTS_URL";

fn main() -> ExitCode {
    // The arguments of `cargo test` ask for tests by name, or for their list.
    if std::env::args().any(|argument| argument == "--list") {
        println!("sixty_four_processes_on_one_key_admit_exactly_the_limit: test");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if let Ok(url) = std::env::var(VARIABLE) {
        runtime.block_on(worker(&url));
        return ExitCode::SUCCESS;
    }
    runtime.block_on(sixty_four_processes_on_one_key_admit_exactly_the_limit());
    println!("test sixty_four_processes_on_one_key_admit_exactly_the_limit ... ok");
    ExitCode::SUCCESS
}

fn patient(url: &str) -> Memcached {
    let (timeout, config) = (Duration::from_secs(20), CasConfig::new().patience(Duration::from_secs(20)));
    let builder = Memcached::builder(url).timeout(timeout).connect_timeout(timeout).cas(config);
    builder.build().expect("a URL of Memcached")
}

/// Asks until it is denied; how many were admitted, and how often it was given up because others were faster.
async fn worker(url: &str) {
    let memcached = patient(url);
    let _connected = taken(&memcached, QUOTA, "other").await;
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a word to start");
    let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(ask_until_denied(memcached.clone()))).collect();
    let (mut admitted, mut contended) = (0, 0);
    for task in tasks {
        let (own, given_up) = task.await.expect("no task panics");
        admitted += own;
        contended += given_up;
    }
    let conflicts = memcached.usage().cas.conflicts;
    println!("{admitted} {contended} {conflicts}");
}

async fn ask_until_denied(memcached: Memcached) -> (u64, u64) {
    let (mut admitted, mut contended) = (0, 0);
    loop {
        match ask(&memcached, QUOTA, "hot").await {
            Ok(verdict) if verdict.allowed() => admitted += 1,
            Ok(_) => return (admitted, contended),
            Err(error) if error.kind() == ErrorKind::Contention => contended += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn sixty_four_processes_on_one_key_admit_exactly_the_limit() {
    let server = server();
    let url = url(&[server.addr()]);
    let mut workers: Vec<Worker> = (0..PROCESSES).map(|_| Worker::start(&url)).collect();
    for worker in &mut workers {
        assert_eq!(worker.line(), "ready");
    }
    for worker in &mut workers {
        worker.child.stdin.take().expect("a pipe").write_all(b"go\n").expect("a worker that waits");
    }
    let mut sums = [0; 3];
    let mut with_any = 0;
    for worker in &mut workers {
        let line = worker.line();
        let own: Vec<u64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
        with_any += u64::from(own[0] > 0);
        sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
    }
    let [admitted, contended, conflicts] = sums;
    println!("{admitted} admitted by {with_any} processes; {conflicts} lost races, {contended} given up");
    assert_eq!(admitted, 1_000);
    assert!(conflicts > 0, "nobody met");
    assert_eq!(taken(&patient(&url), QUOTA, "hot").await, 1_000);
}

/// A process, which ends with the test.
struct Worker {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Worker {
    fn start(url: &str) -> Self {
        let program = std::env::current_exe().expect("the path of this test");
        let mut command = Command::new(program);
        command.env(VARIABLE, url).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this test's program again");
        let output = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        Self { child, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("text");
        assert!(!line.is_empty(), "a worker ended before its answer");
        line.trim_end().to_owned()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
