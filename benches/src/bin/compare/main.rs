//! Compares algorithms and stores, and writes what it found as a page, as Markdown and as JSON.
//!
//! `cargo run --release -p benches --bin compare` starts a server of its own for each store. `--help` says what can be
//! chosen.

mod in_process;
mod progress;
mod under_load;
mod weigh;

use benches::accuracy::access_log::{self, Parsed};
use benches::accuracy::{self, Policy, Trace, cost, judge};
use benches::report::{Peers, Report, Setting, html, markdown};
use benches::stores::{self, Fallible};
use clap::{Parser, ValueEnum};
use limiter_core::{Algorithm, Quota};
use progress::Progress;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Compares rate limiting algorithms and stores on this machine, and writes report.html, report.md and report.json.
#[derive(Debug, Parser)]
struct Args {
    /// Stores to start and measure.
    #[arg(long, value_delimiter = ',', default_value = "redis,postgres,memcached")]
    stores: Vec<StoreName>,

    /// Algorithms to measure under load; the traces go through all of them.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "token-bucket,leaky-bucket,fixed-window,sliding-log,sliding-counter"
    )]
    algorithms: Vec<Algorithm>,

    /// Turns of a tenth of their length: to see that it works, not for figures.
    #[arg(long)]
    quick: bool,

    /// Limit and window of the traces, as "100 per 10s".
    #[arg(long, default_value = "100 per 10s")]
    quota: String,

    /// An access log in common or combined format to replay, instead of the one in the repository.
    #[arg(long)]
    access_log: Option<PathBuf>,

    /// What the programs in benches/peers wrote by their --json.
    #[arg(long)]
    peers: Vec<PathBuf>,

    /// Measures nothing, and writes the pages of this report.json again; with --peers, with these in place of its own.
    #[arg(long)]
    from: Option<PathBuf>,

    /// The folder to write to.
    #[arg(long, default_value = "target/report")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StoreName {
    Redis,
    Postgres,
    Memcached,
    /// No store: the traces, and what happens in this process.
    None,
}

impl StoreName {
    const fn name(self) -> Option<&'static str> {
        match self {
            Self::Redis => Some("redis"),
            Self::Postgres => Some("postgres"),
            Self::Memcached => Some("memcached"),
            Self::None => None,
        }
    }
}

/// How long everything takes.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// A turn under load.
    turn: Duration,
    /// Turns of each; odd, so that the median is one of them.
    repetitions: usize,
    /// Keys that are weighed.
    weighed: usize,
}

impl Pace {
    const FULL: Self = Self { turn: Duration::from_millis(500), repetitions: 5, weighed: 10_000 };
    const QUICK: Self = Self { turn: Duration::from_millis(50), repetitions: 1, weighed: 500 };
}

fn main() -> Fallible<()> {
    let args = Args::parse();
    let mut report = match &args.from {
        Some(path) => serde_json::from_slice(&read(path)?).map_err(|error| failed(path, &error))?,
        None => measured(&args)?,
    };
    let mut peers = Peers::default();
    for path in &args.peers {
        peers.extend(serde_json::from_slice(&read(path)?).map_err(|error| failed(path, &error))?);
    }
    if !args.peers.is_empty() {
        report.peers = peers;
    }
    write(&report, &args.output)?;
    print!("{}", markdown::choices(&report));
    Ok(())
}

/// A run.
fn measured(args: &Args) -> Fallible<Report> {
    let quota: Quota = args.quota.parse()?;
    let (limit, window) = (quota.limit(), quota.window());
    let policies = accuracy::policies(limit, window)?;
    let pace = if args.quick { Pace::QUICK } else { Pace::FULL };
    let stores: Vec<_> = args.stores.iter().filter_map(|store| store.name()).collect();
    let progress = Progress::new(stores.len());
    let mut report = Report {
        setting: Setting::here(command()),
        quota: format!("{limit} per {window:?}"),
        ..Report::default()
    };

    progress.step("traces");
    let mut traces = Vec::from(Trace::made(limit, window));
    traces.push(logged(args.access_log.as_deref())?);
    report.traces = traces.iter().map(|trace| judge(trace, &policies)).collect();
    report.costs = cost::measure(&traces[0], &policies, 8 * pace.repetitions + 1);

    progress.step("this process");
    report.in_process = in_process::measure(&args.algorithms, pace)?;
    report.weights.push(weigh::memory(&policies, pace.weighed)?);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for store in stores {
        runtime.block_on(measure(store, &args.algorithms, &policies, pace, &progress, &mut report))?;
    }
    progress.finish();
    Ok(report)
}

/// Everything about one store, on a server that ends with it.
async fn measure(
    name: &str,
    algorithms: &[Algorithm],
    policies: &[Policy],
    pace: Pace,
    progress: &Progress,
    report: &mut Report,
) -> Fallible<()> {
    let names = benches::keys(benches::KEYS).into();
    let store = stores::start(name, &names).await?;
    report.setting.versions.push(store.version().await?);
    progress.step(&format!("{name}: bytes per key"));
    report.weights.push(weigh::store(&*store, policies, &names, pace.weighed).await?);
    let measured = under_load::measure(&*store, algorithms, &names, pace, progress).await?;
    report.loads.extend(measured.loads);
    report.open.push(measured.open);
    Ok(())
}

fn logged(path: Option<&Path>) -> Fallible<Trace> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/access.log");
    let Parsed { mut trace, skipped } = access_log::read(path.unwrap_or(&own))?;
    if skipped > 0 {
        trace.about = format!("{}; {skipped} lines are no requests", trace.about);
    }
    "access log".clone_into(&mut trace.name);
    Ok(trace)
}

fn write(report: &Report, folder: &Path) -> Fallible<()> {
    fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
    let json = serde_json::to_string_pretty(report)?;
    for (name, text) in
        [("report.html", html::page(report)), ("report.md", markdown::page(report)), ("report.json", json)]
    {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| failed(&path, &error))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn read(path: &Path) -> Fallible<Vec<u8>> {
    fs::read(path).map_err(|error| failed(path, &error).into())
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

/// How to run this again.
fn command() -> String {
    let args = std::env::args().skip(1).map(|arg| if arg.contains(' ') { format!("\"{arg}\"") } else { arg });
    let args: Vec<_> = args.collect();
    let dashes = if args.is_empty() { "" } else { " -- " };
    format!("cargo run --release -p benches --bin compare{dashes}{}", args.join(" "))
}
