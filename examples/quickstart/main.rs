//! The whole job at once: `cargo run --release --example quickstart`.
//!
//! Starts the service of the example `http_service` on a free port, lets clients of several habits ask it over
//! real connections for some seconds, and holds what was admitted against what the quotas permit.

#[path = "../http_service/args.rs"]
mod args;
mod clients;
mod latency;
mod outage;
mod report;
#[path = "../http_service/service.rs"]
mod service;

use args::{Failure, Flags};
use clients::{CAST, Stage};
use distributed_rate_limiter::{OnOutage, Quota, Timestamp};
use indicatif::{ProgressBar, ProgressStyle};
use latency::Latency;
use report::{Row, Rules};
use service::{QUOTAS, Service};
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const HELP: &str = "\
Starts a limited HTTP service on a free port, asks it from many clients at once, and shows what was admitted
against what the quotas permit. Exit code 1 if that does not agree.

  --seconds N   how long the clients ask, 1 to 60; 5
  --store URL   what keeps the counts; LIMITER_STORE, else memory://
  --outage N    instead, takes the store away for N seconds, 1 to 30, while instances ask it, and shows what they
                answer: no call outlives its deadline, and what is admitted stays within its bound
";

/// Far more than the global rule admits in the time that they take.
const MADE_UP_NAMES: usize = 2_000;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("quickstart"),
    }
}

async fn run() -> Result<(), Failure> {
    let flags = Flags::parse(std::env::args_os().skip(1), &["--seconds", "--store", "--outage"])
        .map_err(Failure::Usage)?;
    let Some(flags) = flags else {
        return show(HELP);
    };
    let seconds = whole("--seconds", flags.get("--seconds").unwrap_or("5"), 60).map_err(Failure::Usage)?;
    let store = flags.store()?;
    // A namespace of its own: in a shared store, what an earlier run used up is not held against this one.
    let namespace = format!("quickstart-{}", Timestamp::now().as_micros());
    if let Some(away) = flags.get("--outage") {
        let away = whole("--outage", away, 30).map_err(Failure::Usage)?;
        let report = outage::run(store, Duration::from_secs(away), &namespace, None).await;
        return show(&report.map_err(Failure::Failed)?);
    }
    let store_name = store.name();

    let decisions = Arc::new(Latency::new().map_err(failed)?);
    let limiter = service::limiter(store, &QUOTAS).namespace(namespace);
    let observer = Arc::clone(&decisions);
    let service = Service::new(limiter, OnOutage::default())
        .map_err(failed)?
        .observe(move |took| observer.record(took));
    service.limiter().ready().await.map_err(failed)?;
    let rules = quotas(&service)?;
    let rules_text = service.rules();
    let address = serve(service).await?;
    show(&format!(
        "service on http://{address}, counting in {store_name}; a request must pass every rule:\n{rules_text}\n\
         {} clients for {seconds} s, then one that invents a name for each request\n\n",
        CAST.len()
    ))?;

    let stage = Arc::new(Stage {
        service: address,
        limited: Latency::new().map_err(failed)?,
        unlimited: Latency::new().map_err(failed)?,
        offered: AtomicU64::new(0),
        denied: AtomicU64::new(0),
    });
    let bar = tokio::spawn(progress(seconds, Arc::clone(&stage)));
    let mut playing = JoinSet::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    for script in CAST {
        let stage = Arc::clone(&stage);
        playing.spawn(async move { (script, clients::play(script, stage, end).await) });
    }
    let mut played = Vec::new();
    while let Some(one) = playing.join_next().await {
        played.push(one.map_err(failed)?);
    }
    played.sort_by_key(|(script, _)| CAST.iter().position(|s| s.name == script.name));
    let invented = clients::invent_names(MADE_UP_NAMES, &stage).await;
    bar.abort();
    // Only when the task has ended is its line cleared, and the table must not be in its way.
    let _ = bar.await;

    let mut rows: Vec<_> = played.iter().map(|(script, tally)| Row::client(*script, tally, rules)).collect();
    rows.push(Row::global("faker", "a new name each time", &invented, rules));
    show(&report::table(&rows, rules))?;
    show(&format!("\n{}", latency::report(&decisions, &stage.limited, &stage.unlimited)))?;
    let wrongs = report::wrongs(&rows, rules);
    if wrongs.is_empty() { Ok(()) } else { Err(Failure::Failed(wrongs.join("\n"))) }
}

/// So many seconds.
fn whole(flag: &str, text: &str, most: u64) -> Result<u64, String> {
    let seconds = text.parse().ok().filter(|seconds| (1..=most).contains(seconds));
    seconds.ok_or_else(|| format!("{flag} {text:?} is not a whole number from 1 to {most}"))
}

fn quotas(service: &Service) -> Result<Rules, Failure> {
    let quota = |wanted: &str| -> Result<Quota, Failure> {
        let mut rules = service.limiter().rules();
        let found = rules.find(|(name, _, _)| *name == wanted);
        found.map(|(_, _, quota)| quota).ok_or_else(|| failed(format!("no rule {wanted:?}")))
    };
    Ok(Rules { global: quota("global")?, client: quota("client")?, endpoint: quota("endpoint")? })
}

/// Serves on a free port, until the process ends.
async fn serve(service: Service) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let app = service::router(service).into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

/// A bar on stderr, where that is a terminal; elsewhere nothing.
async fn progress(seconds: u64, stage: Arc<Stage>) {
    let bar = ProgressBar::new(seconds * 1_000);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {msg}") {
        bar.set_style(style);
    }
    let start = Instant::now();
    // Cleared when the task is ended, also in its sleep.
    let bar = Cleared(bar);
    loop {
        let elapsed = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (offered, denied) = (stage.offered.load(Ordering::Relaxed), stage.denied.load(Ordering::Relaxed));
        bar.0.set_message(format!("{offered} offered, {denied} denied"));
        bar.0.set_position(elapsed.min(seconds * 1_000));
        sleep(Duration::from_millis(100)).await;
    }
}

struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// `print!` panics where nobody reads on, as in `quickstart | head`.
fn show(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::Failed(format!("stdout: {error}")))
}

fn failed(why: impl ToString) -> Failure {
    Failure::Failed(why.to_string())
}
