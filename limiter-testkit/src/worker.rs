//! Several processes on one key: this program again, as a worker.

use crate::fixture::{Fixture, quota};
use crate::harness::Harness;
use crate::servers::shared;
use limiter_core::Algorithm;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};

/// Tells a program of [`main`](crate::main) that it is a worker, and its task.
const VARIABLE: &str = "LIMITER_TESTKIT_WORKER";
const READY: &str = "ready";
/// The key that all workers ask for.
const KEY: &str = "hot";
const TASKS: u64 = 8;
const REQUESTS: u64 = 40;

/// What a worker is to do.
pub(crate) struct Task {
    harness: String,
    namespace: String,
    algorithm: Algorithm,
    limit: u64,
}

impl Task {
    /// The task of this process, if it is a worker.
    pub(crate) fn given() -> Option<Self> {
        let text = std::env::var(VARIABLE).ok()?;
        let task = Self::parse(&text);
        Some(task.expect("a task as a test writes it"))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(4, ' ');
        let (algorithm, limit) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self {
            algorithm,
            limit,
            namespace: words.next()?.to_owned(),
            harness: words.next()?.to_owned(),
        })
    }

    fn text(&self) -> String {
        let Self { harness, namespace, algorithm, limit } = self;
        format!("{algorithm} {limit} {namespace} {harness}")
    }

    /// Opens the store, says so, and when told to start, asks from several tasks; prints how many were admitted.
    pub(crate) fn run(self, harnesses: &[Harness]) -> ExitCode {
        let harness = harnesses.iter().find(|harness| harness.name() == self.harness);
        let harness = harness.expect("the harness of the test that started this worker");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let admitted = runtime.expect("a runtime").block_on(async {
            let fixture = harness.instance(&self.namespace).await;
            println!("{READY}");
            let mut line = String::new();
            io::stdin().read_line(&mut line).expect("a word to start");
            let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(self.ask(&fixture))).collect();
            let mut sum = 0;
            for task in tasks {
                sum += task.await.expect("no task panics");
            }
            sum
        });
        println!("{admitted}");
        ExitCode::SUCCESS
    }

    fn ask(&self, fixture: &Fixture) -> impl Future<Output = u64> + Send + 'static {
        let (fixture, quota) = (fixture.clone(), quota(&format!("{}/day", self.limit), self.algorithm));
        async move {
            let mut admitted = 0;
            for _ in 0..REQUESTS {
                admitted += u64::from(fixture.one(KEY, quota, 1, 0).await.allowed);
            }
            admitted
        }
    }
}

/// Runs so many workers at once; how many requests they sent, and how many were admitted.
pub(crate) fn race(fixture: &Fixture, algorithm: Algorithm, limit: u64, workers: u64) -> (u64, u64) {
    let (harness, namespace) = (fixture.harness().name().to_owned(), fixture.namespace().to_owned());
    let task = Task { harness, namespace, algorithm, limit };
    let mut workers: Vec<Worker> = (0..workers).map(|_| Worker::start(&task)).collect();
    for worker in &mut workers {
        assert_eq!(worker.line(), READY);
    }
    for worker in &mut workers {
        worker.go();
    }
    let admitted = workers.iter_mut().map(|worker| worker.line().parse::<u64>().expect("a number")).sum();
    (workers.len() as u64 * TASKS * REQUESTS, admitted)
}

/// A process, which ends with the case.
struct Worker {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(task: &Task) -> Self {
        let program = std::env::current_exe().expect("the path of this test");
        let mut child = Command::new(program)
            .envs(shared::environment())
            .env(VARIABLE, task.text())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test's program again");
        let output = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        Self { child, output }
    }

    /// The next line that it prints; what it says of a failure is among the errors of this test.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("text");
        assert!(!line.is_empty(), "a worker ended before its answer");
        line.trim_end().to_owned()
    }

    fn go(&mut self) {
        let mut input = self.child.stdin.take().expect("its input is a pipe");
        input.write_all(b"go\n").expect("a worker that waits");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
