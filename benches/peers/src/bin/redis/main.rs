//! The library on Redis against limitador's exact Redis storage, on the same server, and against throttlecrab's server,
//! which speaks the same protocol, if it is there: a closed loop, ratios within one run. With `--json FILE` it also writes the file that
//! `compare --peers` reads.
//!
//! Everyone is asked for one permit of one of 10,000 keys, and admits it. limitador has one limit in one namespace and
//! a counter per key; it is asked as an application asks it, which is what the floor is about, and once more as its
//! storage alone, with counters built before: no context, no limits looked up, no CEL. Its storage takes two round
//! trips per decision, and callers who pass the first at once are all admitted.

mod throttlecrab;

use benches::floors::{Floor, report};
use benches::keys::Keys;
use benches::load::{Arrivals, Contestant, Scenario, compete};
use benches::report::setting::versions;
use benches::report::{Load, Peers};
use benches::stores::Fallible;
use benches::stores::redis::Target;
use limitador::AsyncRateLimiter;
use limitador::counter::Counter;
use limitador::limit::{Context, Limit, Namespace};
use limitador::storage::redis::AsyncRedisStorage;
use limitador::storage::{AsyncCounterStorage, Authorization};
use limiter_testkit::servers;
use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Odd, so that the median is one of them.
const REPETITIONS: usize = 5;

const CALLERS: usize = 256;
const KEYS: usize = 10_000;
const TURN: Duration = Duration::from_millis(800);

const LIMITER: &str = "token bucket";
const LIMITADOR: &str = "limitador";
const STORAGE: &str = "limitador, storage alone";

const FLOORS: [Floor; 1] = [Floor::rate(LIMITER, LIMITADOR, 4.0)];

const NAMESPACE: &str = "bench";
const VARIABLE: &str = "user";

fn main() -> Fallible<ExitCode> {
    let server = servers::Redis::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let passed = runtime.block_on(run(server.url()))?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(url: String) -> Fallible<bool> {
    let redis = Target::connect(url, benches::keys(KEYS).into()).await?;
    let throttlecrab = throttlecrab::Server::start()?;
    if throttlecrab.is_none() {
        println!("{}: not on the PATH, and so not compared", throttlecrab::INSTALL);
    }
    let [bare, _] = redis.bare();
    let mut contestants = vec![
        bare,
        redis.limiter(LIMITER, benches::ample().build()?, true)?,
        limitador(&redis).await?,
        storage(&redis).await?,
    ];
    if let Some(server) = &throttlecrab {
        contestants.push(server.contestant(&redis.names).await?);
    }
    let scenario = Scenario { arrivals: Arrivals::Closed(CALLERS), keys: Keys::uniform(KEYS), turn: TURN };
    let turns = compete(&contestants, &scenario, REPETITIONS).await;
    let named: Vec<_> = contestants.iter().map(|contestant| contestant.name).zip(turns).collect();
    let name = format!("{CALLERS} callers, 10,000 keys");
    let mut versions = versions(include_str!("../../../Cargo.lock"), &["limitador"]);
    if throttlecrab.is_some() {
        versions.push(throttlecrab::Server::version()?);
    }
    let found = Peers { versions, loads: vec![Load::new("redis", &name, &named)], ..Peers::default() };
    found.write_if_asked()?;
    Ok(report(&name, &named, &FLOORS))
}

async fn limitador(redis: &Target) -> Fallible<Contestant> {
    let limiter = AsyncRateLimiter::new_with_storage(Box::new(AsyncRedisStorage::new(&redis.url).await?));
    limiter.add_limit(limit(NAMESPACE)?);
    let shared = Arc::new((limiter, Namespace::from(NAMESPACE), Arc::clone(&redis.names)));
    Ok(Contestant::new(LIMITADOR, move |key: usize| {
        let shared = Arc::clone(&shared);
        async move {
            let (limiter, namespace, names) = &*shared;
            let context = context(&names[key]);
            let answer = limiter.check_rate_limited_and_update(namespace, &context, 1).await;
            assert!(answer.is_ok_and(|answer| !answer.limited && answer.counters.len() == 1));
        }
    }))
}

async fn storage(redis: &Target) -> Fallible<Contestant> {
    let storage = AsyncRedisStorage::new(&redis.url).await?;
    let limit = Arc::new(limit("storage")?);
    let counters = redis.names.iter().map(|name| Counter::new(Arc::clone(&limit), &context(name)));
    let counters = counters
        .collect::<Result<Option<Vec<_>>, _>>()
        .map_err(|error| error.to_string())?
        .ok_or("a key without a counter")?;
    let counters: Arc<[Counter]> = counters.into();
    Ok(Contestant::new(STORAGE, move |key: usize| {
        let (storage, counters) = (storage.clone(), Arc::clone(&counters));
        async move {
            let answer = storage.check_and_update(&mut vec![counters[key].clone()], 1).await;
            assert!(matches!(answer, Ok(Authorization::Ok)));
        }
    }))
}

/// As much as nobody takes in a run, per minute. With an id, which makes for its shorter keys in Redis.
fn limit(namespace: &str) -> Fallible<Limit> {
    Ok(Limit::with_id(namespace, namespace, 1_000_000_000, 60, [], [VARIABLE.try_into()?]))
}

fn context(name: &str) -> Context<'static> {
    HashMap::from([(VARIABLE.to_owned(), name.to_owned())]).into()
}
