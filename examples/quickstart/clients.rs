//! The clients: real HTTP over real connections, each with a habit of its own.

use crate::latency::Latency;
use crate::service::CLIENT;
use axum::body::{Body, to_bytes};
use axum::http::header::RETRY_AFTER;
use axum::http::{Request, StatusCode};
use distributed_rate_limiter::Timestamp;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// One client's part in the play.
#[derive(Clone, Copy)]
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) habit: &'static str,
    /// Asked in turn, each a route of its own.
    pub(crate) paths: &'static [&'static str],
    pub(crate) pace: Pace,
    /// Whether it stays within its quota whatever the machine does, so that no denial is right.
    pub(crate) within: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// One request after another, so long apart at least.
    Every(Duration),
    /// So many requests at once.
    Bursts(usize, Duration),
    /// Without a pause until it is denied; then it waits as `Retry-After` says.
    Obedient,
}

const ALL: &[&str] = &["/", "/search", "/items/7"];

/// Those `within` are slower than the client rule (5/s) and, as they take turns, than the endpoint rule (2/s):
/// one request is sent after the answer to the one before, so a stall delays them and never bunches them.
pub(crate) const CAST: [Script; 8] = [
    script("calm", "2/s, all endpoints", ALL, every(500), true),
    script("brisk", "4/s, all endpoints", ALL, every(250), true),
    script("reader", "1/s, one endpoint", &["/items/7"], every(1_000), true),
    script("eager", "50/s, all endpoints", ALL, every(20), false),
    script("greedy", "100/s, all endpoints", ALL, every(10), false),
    script("searcher", "20/s, one endpoint", &["/search"], every(50), false),
    script("bursty", "15 at once, each second", ALL, Pace::Bursts(15, Duration::from_secs(1)), false),
    script("obedient", "heeds Retry-After", ALL, Pace::Obedient, false),
];

const fn script(
    name: &'static str,
    habit: &'static str,
    paths: &'static [&'static str],
    pace: Pace,
    within: bool,
) -> Script {
    Script { name, habit, paths, pace, within }
}

const fn every(millis: u64) -> Pace {
    Pace::Every(Duration::from_millis(millis))
}

/// What all clients share.
pub(crate) struct Stage {
    pub(crate) service: SocketAddr,
    pub(crate) limited: Latency,
    pub(crate) unlimited: Latency,
    /// For the progress bar.
    pub(crate) offered: AtomicU64,
    pub(crate) denied: AtomicU64,
}

/// What became of one client's requests.
pub(crate) struct Tally {
    pub(crate) offered: u64,
    pub(crate) admitted: u64,
    pub(crate) denied: u64,
    /// Denials in which this rule had a part: global, client, endpoint.
    pub(crate) denied_by: [u64; 3],
    /// Denials of a request that waited as long as `Retry-After` had said.
    pub(crate) denied_after_wait: u64,
    pub(crate) failures: Vec<String>,
    /// Before the first request was sent and after the last answer, on the clock that the in-process store
    /// decides by: with another clock, their drift would blur an exact bound.
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

/// In the order of [`Tally::denied_by`].
const RULES: [&str; 3] = ["global", "client", "endpoint"];

/// An answer to a limited request.
enum Answer {
    Admitted,
    Denied { retry_after: Duration, by: [bool; 3] },
}

type Http = Client<HttpConnector, Body>;

/// Plays a script until the end.
pub(crate) async fn play(script: Script, stage: Arc<Stage>, end: Instant) -> Tally {
    let http = http();
    // Connects before anything is measured.
    let warm = ask(&http, &stage, "/unlimited", script.name).await;
    let mut tally = Tally::new();
    tally.failures.extend(warm.err());
    match script.pace {
        Pace::Every(pause) => {
            let mut ticks = interval(pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut turn = 0;
            while ticks.tick().await < end && Instant::now() < end {
                tally.add(&stage, next(&http, &stage, script, turn).await);
                turn += 1;
            }
        }
        Pace::Bursts(size, pause) => {
            let mut ticks = interval(pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while ticks.tick().await < end && Instant::now() < end {
                let mut burst = JoinSet::new();
                for turn in 0..size {
                    let (http, stage) = (http.clone(), Arc::clone(&stage));
                    burst.spawn(async move { next(&http, &stage, script, turn).await });
                }
                while let Some(answer) = burst.join_next().await {
                    tally.add(&stage, answer.unwrap_or_else(|error| Err(error.to_string())));
                }
            }
        }
        Pace::Obedient => {
            let mut waited = false;
            for turn in 0.. {
                if Instant::now() >= end {
                    break;
                }
                let wait = tally.add(&stage, next(&http, &stage, script, turn).await);
                tally.denied_after_wait += u64::from(waited && wait.is_some());
                waited = wait.is_some();
                if let Some(wait) = wait {
                    // No request can follow a wait past the end.
                    if Instant::now() + wait >= end {
                        break;
                    }
                    sleep(wait).await;
                }
            }
        }
    }
    tally
}

/// One that invents a name for each request, as fast as they are answered: the rules per client never see it
/// twice. With each it asks `/unlimited` too, in alternating order, and measures both.
///
/// Measured here, where nothing pauses: a request after a pause finds caches and threads asleep, which costs
/// far more than a decision and would be blamed on whichever route came first.
pub(crate) async fn invent_names(requests: usize, stage: &Stage) -> Tally {
    let http = http();
    let mut tally = Tally::new();
    for turn in 0..requests {
        let name = format!("made-up-{turn}");
        let paths = if turn.is_multiple_of(2) { ["/", "/unlimited"] } else { ["/unlimited", "/"] };
        for path in paths {
            let answer = ask(&http, stage, path, &name).await;
            let latency = if path == "/" { &stage.limited } else { &stage.unlimited };
            if let Ok((_, took)) = &answer {
                latency.record(*took);
            }
            if path == "/" {
                tally.add(stage, answer.map(|(answer, _)| answer));
            } else {
                tally.failures.extend(answer.err());
            }
        }
    }
    tally
}

fn http() -> Http {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// A client's next request, to the route whose turn it is.
async fn next(http: &Http, stage: &Stage, script: Script, turn: usize) -> Result<Answer, String> {
    let path = script.paths.get(turn % script.paths.len().max(1)).copied().unwrap_or("/");
    Ok(ask(http, stage, path, script.name).await?.0)
}

/// One request, and how long it took until the last byte of the answer.
async fn ask(http: &Http, stage: &Stage, path: &str, name: &str) -> Result<(Answer, Duration), String> {
    // Longer than any stall of a busy machine; without it a lost answer would hang the run.
    timeout(Duration::from_secs(30), exchange(http, stage, path, name))
        .await
        .map_err(|_| format!("GET {path}: no answer in 30 s"))?
        .map_err(|error| format!("GET {path}: {error}"))
}

async fn exchange(
    http: &Http,
    stage: &Stage,
    path: &str,
    name: &str,
) -> Result<(Answer, Duration), Box<dyn Error + Send + Sync>> {
    let uri = format!("http://{}{path}", stage.service);
    let request = Request::get(uri).header(CLIENT, name).body(Body::empty())?;
    let sent = Instant::now();
    let (head, body) = http.request(request).await?.into_parts();
    let body = to_bytes(Body::new(body), 1 << 16).await?;
    let took = sent.elapsed();
    match head.status {
        StatusCode::OK => Ok((Answer::Admitted, took)),
        StatusCode::TOO_MANY_REQUESTS => {
            let wait = head.headers.get(RETRY_AFTER).ok_or("a 429 without Retry-After")?.to_str()?.parse()?;
            let problem: serde_json::Value = serde_json::from_slice(&body)?;
            let violated = problem["violated-policies"].as_array().ok_or("a 429 that names no policy")?;
            let by = RULES.map(|rule| violated.iter().any(|name| name == rule));
            Ok((Answer::Denied { retry_after: Duration::from_secs(wait), by }, took))
        }
        status => Err(format!("status {status}").into()),
    }
}

impl Tally {
    fn new() -> Self {
        let now = Timestamp::now();
        Self {
            offered: 0,
            admitted: 0,
            denied: 0,
            denied_by: [0; 3],
            denied_after_wait: 0,
            failures: Vec::new(),
            from: now,
            to: now,
        }
    }

    /// Counts an answer; how long to wait, if it is a denial.
    fn add(&mut self, stage: &Stage, answer: Result<Answer, String>) -> Option<Duration> {
        self.to = Timestamp::now();
        self.offered += 1;
        stage.offered.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(Answer::Admitted) => self.admitted += 1,
            Ok(Answer::Denied { retry_after, by }) => {
                self.denied += 1;
                stage.denied.fetch_add(1, Ordering::Relaxed);
                for (count, by) in self.denied_by.iter_mut().zip(by) {
                    *count += u64::from(by);
                }
                return Some(retry_after);
            }
            Err(failure) => self.failures.push(failure),
        }
        None
    }
}
