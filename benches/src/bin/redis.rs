//! Redis behind the library against bare commands of the same server through the same driver: a closed loop, ratios
//! within one run.
//!
//! `cargo run --release -p benches --bin redis` starts a server of its own, prints a table per scenario and says of
//! each floor whether it was passed; with a word, it runs only the scenarios whose names hold it.
//!
//! The floors hold on a machine that does nothing else. On a busy one no core falls asleep between two calls of one caller, so
//! that the few microseconds by which a script takes longer than a bare command are more of the whole. What all layers
//! cost on one hot key is printed, and has no floor: a decision is half a microsecond there, and they are nearly as much.

use benches::floors::Floor;
use benches::run::{Run, many};
use benches::stores::Fallible;
use benches::stores::redis::{INCR, Target};
use limiter_core::{Algorithm, Quota};
use limiter_testkit::servers;
use std::process::ExitCode;
use std::time::Duration;

const TURN: Duration = Duration::from_millis(800);

const LIMITER: &str = "token bucket";
const DIRECT: &str = "token bucket, single calls";
const LAYERED: &str = "token bucket, all layers";

fn main() -> Fallible<ExitCode> {
    let mut run = Run::from_args(TURN);
    let server = servers::Redis::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        scenarios(&Target::connect(server.url(), benches::keys(10_000).into()).await?, &mut run).await
    })?;
    Ok(run.exit_code())
}

async fn scenarios(target: &Target, run: &mut Run) -> Fallible<()> {
    for (callers, keys, floors) in [
        (1, 10_000, vec![Floor::median(LIMITER, INCR, 1.25), Floor::median(LAYERED, LIMITER, 1.05)]),
        (4, 10_000, vec![Floor::rate(LIMITER, DIRECT, 0.97)]),
        (16, 10_000, vec![Floor::rate(LIMITER, DIRECT, 0.97)]),
        (64, 10_000, vec![Floor::rate(LIMITER, INCR, 0.5)]),
        (256, 10_000, vec![Floor::rate(LIMITER, INCR, 0.7), Floor::rate(LAYERED, LIMITER, 0.9)]),
        (256, 1, vec![Floor::rate(LIMITER, INCR, 5.0)]),
    ] {
        let name = format!("callers: {callers}, keys: {keys}");
        let mut contestants = Vec::from(target.bare());
        for (name, coalesces) in [(LIMITER, true), (DIRECT, false)] {
            contestants.push(target.limiter(name, benches::ample().build()?, coalesces)?);
        }
        contestants.push(target.with_all_layers(LAYERED, benches::ample().build()?)?);
        run.scenario(&name, callers, keys, &contestants, &floors).await;
    }
    // Each admission moves the state by a second, so that each has to say anew when it expires.
    let seldom = target.limiter(LIMITER, benches::plenty(Algorithm::TokenBucket).build()?, true)?;
    let [bare, _] = target.bare();
    let name = "a permit a second, callers: 256, keys: 10,000";
    run.scenario(name, 256, 10_000, &[bare, seldom], &[Floor::rate(LIMITER, INCR, 0.7)]).await;
    let algorithms = Algorithm::ALL.map(|algorithm| target.limiter(algorithm.name(), many(algorithm)?, true));
    let algorithms = algorithms.into_iter().collect::<Fallible<Vec<_>>>()?;
    let floors =
        Algorithm::ALL.map(|algorithm| Floor::rate(algorithm.name(), Algorithm::TokenBucket.name(), 0.5));
    run.scenario("algorithms, callers: 256, keys: 10,000", 256, 10_000, &algorithms, &floors).await;
    let logs = [("100 in a log", 100), ("100,000 in a log", 100_000)].map(|(name, limit)| {
        let quota = Quota::new(limit, Duration::from_secs(10)).algorithm(Algorithm::SlidingLog).build()?;
        target.limiter(name, quota, true)
    });
    let logs = logs.into_iter().collect::<Fallible<Vec<_>>>()?;
    let floors = [Floor::rate("100,000 in a log", "100 in a log", 0.7)];
    run.scenario("log, callers: 64, keys: 16", 64, 16, &logs, &floors).await;
    Ok(())
}
