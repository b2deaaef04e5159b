//! Several processes under load: this program again, as workers.

use crate::stacks::stacks;
use limiter_core::{Backend, DeadlineConfig, StandardConfig, metric, standard};
use limiter_redis::{Redis, RedisBuilder};
use limiter_testkit::faults::{Call, Clock, Hint, History, Load, Loss, LossKind, Outcome, Pace, Plan};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tells this program that it is a worker, and its task.
const VARIABLE: &str = "LIMITER_REDIS_CONTAINERS_WORKER";
const WORKERS: usize = 3;
/// Keys of each algorithm whose charges are counted, so that every server has some.
const COPIES: usize = 6;
const PACE: Pace = Pace { callers: 6, pause: Duration::from_millis(25), deadline: None, batches: false };
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// As long as a busy machine may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A store that waits so long.
pub(crate) fn patient(url: &str) -> RedisBuilder {
    Redis::builder(url).timeout(TIMEOUT).connect_timeout(Duration::from_secs(1))
}

/// The store, that under a layer that puts callers together, and that under all layers, as a limiter has them.
fn all(url: &str) -> Vec<Arc<dyn Backend>> {
    let mut all = stacks(&patient(url));
    let store = patient(url).build().expect("a URL of Redis");
    let deadline = DeadlineConfig::new().decision(TIMEOUT).upkeep(TIMEOUT);
    all.push(standard(Arc::new(store), StandardConfig::new().deadline(deadline)));
    all
}

/// Breakers that are open.
fn open_breakers(stacks: &[Arc<dyn Backend>]) -> u64 {
    let mut open = 0;
    for stack in stacks {
        stack.report(&mut |figure| {
            if figure.metric().name() == metric::BREAKERS.name() && figure.label() == Some("open") {
                open += figure.value();
            }
        });
    }
    open
}

/// What a worker is to do.
#[derive(Clone)]
pub(crate) struct Task {
    run: u64,
    clock: Clock,
    url: String,
}

impl Task {
    /// The task of this process, if it is a worker.
    pub(crate) fn given() -> Option<Self> {
        let text = std::env::var(VARIABLE).ok()?;
        Some(Self::parse(&text).expect("a task as a test writes it"))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(4, ' ');
        let mut number = || words.next()?.parse().ok();
        let (run, start, wall) = (number()?, number()?, number()?);
        Some(Self { run, clock: Clock { start, wall }, url: words.next()?.to_owned() })
    }

    fn text(&self) -> String {
        let Self { run, clock, url } = self;
        format!("{run} {} {} {url}", clock.start, clock.wall)
    }

    fn plan(&self) -> Plan {
        Plan::of_run(self.run, COPIES).crossing()
    }

    /// Asks until it is told to end; says how far it is when it is asked, and in the end all that it was told.
    pub(crate) fn run(self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let stacks = all(&self.url);
            let load = Load::start_with(self.clock, self.plan(), &stacks, PACE);
            for line in io::stdin().lines() {
                match &*line.expect("text") {
                    "count" => println!("{} {} {}", load.answered(), load.errors(), load.last_error()),
                    _ => break,
                }
            }
            let (_, history) = load.end().await;
            // Also those of servers that nobody asks any more.
            let start = Instant::now();
            while open_breakers(&stacks) > 0 {
                assert!(start.elapsed() < PATIENCE, "{} breakers stay open", open_breakers(&stacks));
                tokio::time::sleep(POLL).await;
            }
            for call in &history.calls {
                println!("{}", text(call));
            }
        });
        ExitCode::SUCCESS
    }
}

const OUTCOMES: [Outcome; 4] = [Outcome::Granted, Outcome::Denied, Outcome::NotApplied, Outcome::Unknown];

fn text(call: &Call) -> String {
    let outcome = OUTCOMES.iter().position(|outcome| *outcome == call.outcome).expect("one of them");
    let mut text = format!("{} {} {outcome}", call.start, call.end);
    for (i, (subject, cost)) in call.wants.iter().enumerate() {
        write!(text, " {subject} {cost}").expect("a string takes all");
        if let Some(Hint { allowed, delay, retry_after }) = call.hints.get(i) {
            let (allowed, retry_after) = (u8::from(*allowed), retry_after.map_or(0, |wait| wait + 1));
            write!(text, " {allowed} {delay} {retry_after}").expect("a string takes all");
        }
    }
    text
}

fn call(text: &str) -> Call {
    let numbers: Vec<u64> =
        text.split(' ').map(|word| word.parse().unwrap_or_else(|_| panic!("{text} is no call"))).collect();
    let [start, end, outcome, wants @ ..] = &numbers[..] else { panic!("{text} is no call") };
    let index = |number: u64| usize::try_from(number).expect("an index");
    let outcome = OUTCOMES[index(*outcome)];
    let is_answer = matches!(outcome, Outcome::Granted | Outcome::Denied);
    let wants = wants.chunks_exact(if is_answer { 5 } else { 2 });
    let hint = |want: &[u64]| {
        let [_, _, allowed, delay, retry_after] = want else { return None };
        Some(Hint { allowed: *allowed == 1, delay: *delay, retry_after: retry_after.checked_sub(1) })
    };
    let hints = wants.clone().filter_map(hint).collect();
    let wants = wants.map(|want| (index(want[0]), want[1])).collect();
    Call { wants, start: *start, end: *end, outcome, hints }
}

/// Processes under way.
pub(crate) struct Processes {
    task: Task,
    pub(crate) plan: Plan,
    workers: Vec<Worker>,
    losses: Vec<Loss>,
}

impl Processes {
    /// Starts them.
    pub(crate) fn start(url: &str) -> Self {
        let task = Task { run: fastrand::u64(..), clock: Clock::start(), url: url.to_owned() };
        let workers = (0..WORKERS).map(|_| Worker::start(&task)).collect();
        Self { plan: task.plan(), task, workers, losses: Vec::new() }
    }

    pub(crate) fn now(&self) -> u64 {
        self.task.clock.now()
    }

    /// Waits until each process has got so many more verdicts.
    pub(crate) fn answers(&mut self, more: u64) {
        for worker in &mut self.workers {
            let wanted = worker.count().answers + more;
            let start = Instant::now();
            loop {
                let count = worker.count();
                if count.answers >= wanted {
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "no {more} more answers: {}", count.last_error);
                std::thread::sleep(POLL);
            }
        }
    }

    /// Each process is served without an error again; how long that took. The bound is for a busy machine.
    pub(crate) fn are_back(&mut self) -> Duration {
        let within = Duration::from_secs(10);
        let start = Instant::now();
        for worker in &mut self.workers {
            let (mut first, mut since) = (worker.count(), start.elapsed());
            loop {
                std::thread::sleep(POLL);
                let count = worker.count();
                if count.errors > first.errors {
                    assert!(start.elapsed() < within, "still {}", count.last_error);
                    (first, since) = (count, start.elapsed());
                } else if count.answers >= first.answers + 100 {
                    break;
                }
                assert!(since < within && start.elapsed() < PATIENCE, "no answers after {since:?}");
            }
        }
        start.elapsed()
    }

    /// The store loses what it holds of these subjects, or of all, while this is done.
    pub(crate) fn lose<T>(&mut self, subjects: Option<Vec<usize>>, bend: impl FnOnce() -> T) -> T {
        let start = self.now();
        let done = bend();
        self.losses.push(Loss { start, end: self.now(), kind: LossKind::Fork, subjects });
        done
    }

    /// Ends them; checks all that they were told, and what the store holds.
    pub(crate) async fn check(self) -> History {
        let calls = self.workers.into_iter().flat_map(Worker::end).collect();
        let subjects = self.plan.subjects.clone();
        let history = History { clock: self.task.clock, subjects, calls, losses: self.losses };
        let store = patient(&self.task.url).build().expect("a URL of Redis");
        // A call over several servers takes several trips, of which each may wait for as long as the store does.
        self.plan.check(&history, &store, 4 * TIMEOUT).await;
        history
    }
}

/// How far a process is.
struct Count {
    answers: u64,
    errors: u64,
    last_error: String,
}

/// A process, which ends with the test.
struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(task: &Task) -> Self {
        let program = std::env::current_exe().expect("the path of this test");
        let mut child = Command::new(program)
            .env(VARIABLE, task.text())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test's program again");
        let input = child.stdin.take().expect("its input is a pipe");
        let output = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        Self { child, input, output }
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.input, "{word}").expect("a worker that listens");
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.output.read_line(&mut line).expect("text");
        (length > 0).then(|| line.trim_end().to_owned())
    }

    fn count(&mut self) -> Count {
        self.tell("count");
        let line = self.line().expect("a worker that has not ended");
        let mut words = line.splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a number");
        let (answers, errors) = (number(), number());
        Count { answers, errors, last_error: words.next().unwrap_or_default().to_owned() }
    }

    fn end(mut self) -> Vec<Call> {
        self.tell("end");
        let mut calls = Vec::new();
        while let Some(line) = self.line() {
            calls.push(call(&line));
        }
        assert!(self.child.wait().expect("its status").success(), "a worker failed");
        calls
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
