//! Memcached behind the library against bare commands of the same server through the same driver: a closed loop, ratios
//! within one run.
//!
//! `cargo run --release -p benches --bin memcached` starts a server of its own, prints a table per scenario and says of
//! each floor whether it was passed; with a word, it runs only the scenarios whose names hold it.

use benches::floors::Floor;
use benches::load::Contestant;
use benches::pipeline::Pipeline;
use benches::run::{self, Run, many};
use limiter_core::{Algorithm, CasConfig, Quota};
use limiter_memcached::Memcached;
use limiter_memcached::memcache::exp::{AsyncMetaClient, Meta};
use limiter_testkit::servers;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const TURN: Duration = Duration::from_millis(800);

const GET: &str = "get";
const INCR: &str = "incr";
/// What the driver's calls stand between the library and.
const PIPELINED: &str = "incr, multiplexed by hand";
const LIMITER: &str = "token bucket";
const FORGETFUL: &str = "token bucket, no versions kept";

struct Bench {
    url: String,
    client: AsyncMetaClient,
    pipeline: Pipeline,
    names: Arc<[String]>,
}

fn main() -> Fallible<ExitCode> {
    let mut run = Run::from_args(TURN);
    let server = servers::Memcached::builder().args(["-m", "512"]).start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let client = AsyncMetaClient::builder().max_connections(Some(32)).max_idle(32);
        let client = client.connect_async(server.addr()).await?;
        let pipeline = Pipeline::connect(server.addr()).await?;
        let bench = Bench { url: server.url(), client, pipeline, names: benches::keys(10_000).into() };
        bench.scenarios(&mut run).await
    })?;
    Ok(run.exit_code())
}

impl Bench {
    async fn scenarios(&self, run: &mut Run) -> Fallible<()> {
        let quota = benches::plenty(Algorithm::TokenBucket).build()?;
        for (callers, keys, floors) in [
            (1, 10_000, vec![Floor::median(FORGETFUL, GET, 2.4)]),
            (1, 1, vec![Floor::median(LIMITER, GET, 1.2)]),
            (256, 10_000, vec![Floor::rate(LIMITER, INCR, 1.5)]),
            (256, 1, vec![Floor::rate(LIMITER, INCR, 5.0), Floor::tail(LIMITER, 5.0)]),
        ] {
            let contestants = [
                self.get(),
                self.incr(),
                self.pipelined(),
                self.limiter(LIMITER, quota, CasConfig::new())?,
                self.limiter(FORGETFUL, quota, CasConfig::new().remember(0, Duration::ZERO))?,
            ];
            let name = format!("callers: {callers}, keys: {keys}");
            run.scenario(&name, callers, keys, &contestants, &floors).await;
        }
        let mut algorithms = Vec::new();
        for algorithm in Algorithm::ALL {
            algorithms.push(self.limiter(algorithm.name(), many(algorithm)?, CasConfig::new())?);
        }
        run.scenario("algorithms, callers: 256, keys: 10,000", 256, 10_000, &algorithms, &[]).await;
        let mut logs = Vec::new();
        for (name, limit) in [("100 in a log", 100), ("10,000 in a log", 10_000)] {
            let quota =
                Quota::new(limit, Duration::from_secs(10)).algorithm(Algorithm::SlidingLog).build()?;
            logs.push(self.limiter(name, quota, CasConfig::new())?);
        }
        run.scenario("log, callers: 64, keys: 16", 64, 16, &logs, &[]).await;
        Ok(())
    }

    fn get(&self) -> Contestant {
        let (client, names) = (self.client.clone(), Arc::clone(&self.names));
        Contestant::new(GET, move |key| {
            let (client, names) = (client.clone(), Arc::clone(&names));
            async move {
                let got = client.get(&names[key]).meta(Meta::NONE.cas()).send().await;
                assert!(got.is_ok(), "{got:?}");
            }
        })
    }

    fn incr(&self) -> Contestant {
        let (client, names) = (self.client.clone(), Arc::clone(&self.names));
        Contestant::new(INCR, move |key| {
            let (client, names) = (client.clone(), Arc::clone(&names));
            async move {
                let counted = client.increment(&names[key]).initial(1, 3_600).send().await;
                assert!(counted.is_ok(), "{counted:?}");
            }
        })
    }

    fn pipelined(&self) -> Contestant {
        let (pipeline, names) = (self.pipeline.clone(), Arc::clone(&self.names));
        Contestant::new(PIPELINED, move |key| {
            let (pipeline, names) = (pipeline.clone(), Arc::clone(&names));
            async move {
                let command = format!("ma {} N3600 J1\r\n", names[key]).into_bytes();
                assert!(pipeline.ask(command).await, "no reply");
            }
        })
    }

    fn limiter(&self, name: &'static str, quota: Quota, config: CasConfig) -> Fallible<Contestant> {
        // A busy machine is no outage.
        let memcached = Memcached::builder(&self.url).timeout(Duration::from_secs(5)).cas(config).build()?;
        Ok(run::limiter(name, memcached, quota, &self.names)?)
    }
}
