//! A primary and its replica behind three sentinels.

use crate::fault::{Fault, follows, wait_until};
use crate::processes::{Processes, patient};
use crate::stacks::stacks;
use limiter_testkit::faults::{Outcome, equals_reference};
use limiter_testkit::servers::RedisSentinel;
use limiter_testkit::servers::containers::{Container, Containers};
use std::time::Instant;

const SENTINELS: [&str; 3] = ["redis-sentinel-1", "redis-sentinel-2", "redis-sentinel-3"];
const SENTINEL_PORT: u16 = 26379;
const PORT: u16 = 6379;

struct Sentinel {
    containers: Containers,
}

impl Sentinel {
    fn start() -> Self {
        let containers = Containers::start("sentinel", &SENTINELS);
        Self { containers: containers.unwrap_or_else(|error| panic!("{error}")) }
    }

    fn sentinels(&self) -> impl Iterator<Item = &Container> {
        SENTINELS.iter().map(|name| self.containers.service(name))
    }

    fn url(&self) -> String {
        let hosts: Vec<String> =
            self.sentinels().map(|sentinel| sentinel.addr(SENTINEL_PORT).to_string()).collect();
        format!("redis-sentinel://{}/{}", hosts.join(","), RedisSentinel::SERVICE)
    }

    /// Whether all sentinels name this server as the primary, and it sees itself so.
    fn is_primary(&self, server: &Container) -> bool {
        let names_it = |sentinel: &Container| {
            let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", RedisSentinel::SERVICE];
            let named = sentinel.command(SENTINEL_PORT, &words).expect("an answer");
            named.items()[0].text() == Some(&*server.addr(PORT).ip().to_string())
        };
        self.sentinels().all(names_it)
            && server.info(PORT, "role").expect("an answer").as_deref() == Some("master")
    }
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn loses_its_primary(fault: Fault) {
    let set_up = Sentinel::start();
    let (lost, next) =
        (set_up.containers.service("redis-primary"), set_up.containers.service("redis-replica"));
    assert!(set_up.is_primary(lost), "{lost:?} is the primary at first");
    let mut processes = Processes::start(&set_up.url());
    processes.answers(200);

    let start = Instant::now();
    processes.lose(None, || {
        fault.begin(lost).expect("a fault");
        wait_until("the replica took over", || set_up.is_primary(next));
    });
    let replaced = start.elapsed();
    let back = processes.are_back();

    // What was paused may have been asked, and answers now, before it hears that it has been replaced.
    processes.lose(None, || {
        fault.end(lost).expect("an end of the fault");
        wait_until("the old primary is a replica", || follows(lost, PORT));
    });
    processes.are_back();

    let history = processes.check().await;
    let failed = history.count(Outcome::NotApplied) + history.count(Outcome::Unknown);
    assert!(failed > 0, "nothing was lost, and so nothing was shown");
    println!(
        "{fault:?}: replaced after {replaced:?}, served without an error {back:?} later; {}",
        history.summary()
    );
    for stack in stacks(&patient(&set_up.url())) {
        equals_reference(&*stack).await;
    }
}
