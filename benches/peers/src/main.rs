//! The in-process store against governor's keyed limiter, as ratios within one run.
//!
//! Contestants take turns in an order that rotates, so that a busy machine slows all of them alike; what is
//! compared is the median of the ratios within a repetition. Absolute numbers belong to the machine. With `--json FILE`
//! it also writes the file that `compare --peers` reads.

mod bytes;
mod contestant;

use benches::report::setting::versions;
use benches::report::{InProcess, InProcessRow, Peers};
use benches::{KEYS, keys, order, scarce, scarce_with_remainder};
use contestant::{Contestant, contestants};
use limiter_core::{Algorithm, Quota};
use std::error::Error;
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Decisions of a thread in all turns of a contestant.
const DECISIONS: usize = 2_700_000;

/// The highest ratios to governor, asked with a `String` at hand, that pass.
const FLOORS: [(&str, f64); 2] = [(contestant::MEMORY, 1.0), (contestant::CHECK, 1.5)];

struct Scenario {
    name: &'static str,
    keys: usize,
    threads: usize,
    quota: Quota,
    /// As much, of permits that are no whole microseconds.
    fractional: Quota,
    /// What each contestant must answer, once its keys have been used.
    allowed: bool,
}

impl Scenario {
    /// Decisions of a thread in one turn: each key a few times, and short where few keys allow it, so that most turns
    /// are not interrupted.
    fn turn(&self) -> usize {
        3 * self.keys.max(10_000)
    }

    fn title(&self) -> String {
        format!("{}, {}", self.name, if self.threads == 1 { "1 thread" } else { "2 threads" })
    }

    fn found(&self, times: &[Times]) -> InProcess {
        let row = |own: &Times| InProcessRow {
            name: own.name.to_owned(),
            nanos: median(own.ns.clone()),
            ratio: own.ratio_to(&times[0]),
        };
        InProcess { keys: self.title(), rows: times.iter().map(row).collect() }
    }

    /// Odd, so that the median is one of them.
    fn repetitions(&self) -> usize {
        DECISIONS / self.turn() | 1
    }
}

/// What one contestant took for a decision, by repetition.
struct Times {
    name: &'static str,
    ns: Vec<f64>,
}

impl Times {
    /// The median of the ratios within a repetition.
    fn ratio_to(&self, other: &Self) -> f64 {
        median(self.ns.iter().zip(&other.ns).map(|(own, other)| own / other).collect())
    }
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    // More at once than a run takes, and slow to come back: a state that is reset would be dropped in between.
    let plenty = [
        Quota::per_second(1).burst(8_000_000).build()?,
        Quota::new(7, Duration::from_millis(7_001)).burst(8_000_000).build()?,
    ];
    let scarce = [scarce(Algorithm::TokenBucket).build()?, scarce_with_remainder().build()?];
    let versions = versions(include_str!("../Cargo.lock"), &["governor", "throttlecrab"]);
    let (mut passed, mut found) = (true, Peers { versions, ..Peers::default() });
    for (name, keys, [quota, fractional], allowed) in [
        ("hot key, allowed", 1, plenty, true),
        ("100,000 keys, allowed", KEYS, plenty, true),
        ("hot key, denied", 1, scarce, false),
        ("100,000 keys, denied", KEYS, scarce, false),
    ] {
        for threads in [1, 2] {
            let scenario = Scenario { name, keys, threads, quota, fractional, allowed };
            let times = measure(&scenario)?;
            passed &= report(&scenario, &times);
            found.in_process.push(scenario.found(&times));
        }
    }
    let (light, weights) = bytes::report()?;
    passed &= light;
    found.weights.push(weights);
    found.write_if_asked()?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(scenario: &Scenario) -> Result<Vec<Times>, Box<dyn Error>> {
    let keys = keys(scenario.keys);
    let orders: Vec<_> =
        (1..).map(|seed| order(keys.len(), scenario.turn(), seed)).take(scenario.threads).collect();
    let contestants = contestants(scenario.quota, scenario.fractional, &keys)?;
    for contestant in &contestants {
        // Every key once, so that none is new in the turns, and those who deny start to.
        contestant.run(&keys, &(0..keys.len()).collect::<Vec<_>>());
    }
    let mut times: Vec<_> = contestants.iter().map(|c| Times { name: c.name(), ns: Vec::new() }).collect();
    for repetition in 0..scenario.repetitions() {
        for turn in 0..contestants.len() {
            let place = (turn + repetition) % contestants.len();
            let (contestant, times) = (&*contestants[place], &mut times[place]);
            let (ns, admitted) = run(contestant, &keys, &orders);
            let expected = if scenario.allowed { scenario.threads * scenario.turn() } else { 0 };
            if admitted != expected {
                return Err(format!("{}: {admitted} admitted, not {expected}", contestant.name()).into());
            }
            times.ns.push(ns);
        }
    }
    Ok(times)
}

/// One turn: ns per decision, as each thread sees it on average, and how many were admitted.
fn run(contestant: &dyn Contestant, keys: &[String], orders: &[Vec<usize>]) -> (f64, usize) {
    let start = Barrier::new(orders.len());
    let turn = |order: &[usize]| {
        start.wait();
        let began = Instant::now();
        let admitted = contestant.run(keys, order);
        (began.elapsed(), admitted)
    };
    let answers: Vec<(Duration, usize)> = std::thread::scope(|scope| {
        let threads: Vec<_> = orders.iter().map(|order| scope.spawn(|| turn(order))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let decisions: usize = orders.iter().map(Vec::len).sum();
    let took: Duration = answers.iter().map(|(took, _)| *took).sum();
    (took.as_secs_f64() * 1e9 / decisions as f64, answers.iter().map(|(_, admitted)| admitted).sum())
}

/// Prints a scenario's table; whether every floor holds. Floors are for what is admitted.
fn report(scenario: &Scenario, times: &[Times]) -> bool {
    println!("\n{}", scenario.title());
    println!("  {:44} {:>7} {:>7} {:>7}", "", "ns", "best", "ratio");
    let [governor, ..] = times else { return false };
    for contestant in times {
        let ratio = contestant.ratio_to(governor);
        let best = contestant.ns.iter().copied().fold(f64::INFINITY, f64::min);
        let ns = median(contestant.ns.clone());
        println!("  {:44} {ns:7.1} {best:7.1} {ratio:7.2}", contestant.name);
    }
    if !scenario.allowed {
        return true;
    }
    let mut passed = true;
    for (who, floor) in FLOORS {
        let Some(who) = times.iter().find(|contestant| contestant.name == who) else { return false };
        let ratio = who.ratio_to(governor);
        let holds = ratio <= floor;
        passed &= holds;
        let verdict = if holds { "pass" } else { "MISSED" };
        println!("  {}: {ratio:.2} of governor, at most {floor:.1}: {verdict}", who.name);
    }
    passed
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
