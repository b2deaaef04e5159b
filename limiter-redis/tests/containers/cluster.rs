//! A cluster of six, of which a primary is lost.

use crate::fault::{Fault, follows, wait_until};
use crate::processes::{Processes, patient};
use crate::stacks::stacks;
use limiter_core::StorageKey;
use limiter_testkit::faults::{Call, History, Outcome, equals_reference};
use limiter_testkit::servers::containers::{Container, Containers};
use limiter_testkit::servers::resp::Value;
use std::net::SocketAddr;
use std::time::Instant;

const NODES: [&str; 6] = [
    "redis-cluster-1",
    "redis-cluster-2",
    "redis-cluster-3",
    "redis-cluster-4",
    "redis-cluster-5",
    "redis-cluster-6",
];
const PORT: u16 = 6379;

struct Cluster {
    containers: Containers,
}

/// Slots, from and to, and the address of the primary that has them.
type Owners = Vec<(u16, u16, SocketAddr)>;

impl Cluster {
    fn start() -> Self {
        let containers = Containers::start("cluster", &["redis-cluster"]);
        Self { containers: containers.unwrap_or_else(|error| panic!("{error}")) }
    }

    fn nodes(&self) -> impl Iterator<Item = &Container> {
        NODES.iter().map(|name| self.containers.service(name))
    }

    fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes().map(|node| node.addr(PORT).to_string()).collect();
        format!("redis-cluster://{}", hosts.join(","))
    }

    /// Who has which slots, as this node sees it.
    fn owners(node: &Container) -> Owners {
        let ranges = node.command(PORT, &["CLUSTER", "SLOTS"]).expect("an answer");
        let number = |value: &Value| {
            value.int().and_then(|number| u16::try_from(number).ok()).expect("a slot or a port")
        };
        let owner = |range: &Value| {
            let primary = range.items()[2].items();
            let ip = primary[0].text().and_then(|ip| ip.parse().ok()).expect("an address");
            (number(&range.items()[0]), number(&range.items()[1]), SocketAddr::new(ip, number(&primary[1])))
        };
        ranges.items().iter().map(owner).collect()
    }

    /// Whether all nodes but one agree that every slot is served, and not by that one.
    fn has_replaced(&self, lost: &Container) -> bool {
        self.nodes().filter(|node| node.addr(PORT) != lost.addr(PORT)).all(|node| {
            let owners = Self::owners(node);
            let slots: u32 = owners.iter().map(|(from, to, _)| u32::from(to - from) + 1).sum();
            slots == 16_384 && owners.iter().all(|(_, _, owner)| *owner != lost.addr(PORT))
        })
    }

    /// Whether the node follows whoever took its place, and all nodes hear of each other.
    fn has_taken_back(&self, lost: &Container) -> bool {
        let is_ok = |node: &Container| {
            let info = node.command(PORT, &["CLUSTER", "INFO"]).expect("an answer");
            info.text().is_some_and(|text| text.contains("cluster_slots_ok:16384"))
        };
        follows(lost, PORT) && self.nodes().all(is_ok)
    }
}

/// The slot of a key, as Redis computes it of the tag.
fn slot(node: &Container, key: &StorageKey) -> u16 {
    let tag = format!("{:04x}", key.place().as_u64() & 0xffff);
    let slot = node.command(PORT, &["CLUSTER", "KEYSLOT", &tag]).expect("a slot").int();
    slot.and_then(|slot| u16::try_from(slot).ok()).expect("a slot")
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn loses_a_primary(fault: Fault) {
    let cluster = Cluster::start();
    let url = cluster.url();
    let first = cluster.nodes().next().expect("six nodes");
    let owners = Cluster::owners(first);
    let lost_address = owners[0].2;
    let lost = cluster.nodes().find(|node| node.addr(PORT) == lost_address).expect("one of the six");

    let mut processes = Processes::start(&url);
    let is_lost = |key: &StorageKey| {
        let slot = slot(first, key);
        let owner = owners.iter().find(|(from, to, _)| (*from..=*to).contains(&slot)).expect("a slot");
        owner.2 == lost_address
    };
    let homes: Vec<bool> = processes.plan.keys.iter().map(is_lost).collect();
    let of_the_lost: Vec<usize> = (0..homes.len()).filter(|i| homes[*i]).collect();
    assert!(!of_the_lost.is_empty(), "the node that is to be lost has none of the keys");
    processes.answers(200);

    let down = processes.now();
    let start = Instant::now();
    processes.lose(Some(of_the_lost.clone()), || {
        fault.begin(lost).expect("a fault");
        wait_until("a replica took over", || cluster.has_replaced(lost));
    });
    let replaced = start.elapsed();
    let back = processes.are_back();
    let up = processes.now();

    // What was paused may have been asked, and answers now, before it hears that it has been replaced.
    processes.lose(Some(of_the_lost), || {
        fault.end(lost).expect("an end of the fault");
        wait_until("the node is a replica", || cluster.has_taken_back(lost));
    });
    processes.are_back();

    let history = processes.check().await;
    let meanwhile = only_its_keys_failed(&history, down, up, &homes);
    println!(
        "{fault:?}: replaced after {replaced:?}, meanwhile {meanwhile} answered by the others, all served without an \
         error {back:?} later; {}",
        history.summary()
    );
    for stack in stacks(&patient(&url)) {
        equals_reference(&*stack).await;
    }
}

/// Whoever asked only the other nodes was answered, also between these two instants; who asked the lost one was not
/// always. How many were answered meanwhile.
fn only_its_keys_failed(history: &History, down: u64, up: u64, is_lost: &[bool]) -> usize {
    let failed = |call: &&Call| matches!(call.outcome, Outcome::NotApplied | Outcome::Unknown);
    let (of_the_lost, of_others): (Vec<&Call>, Vec<&Call>) =
        history.calls.iter().partition(|call| call.wants.iter().any(|(i, _)| is_lost[*i]));
    let others_failed: Vec<&Call> = of_others.iter().copied().filter(failed).collect();
    assert!(others_failed.is_empty(), "{others_failed:#?}");
    let meanwhile = of_others.iter().filter(|call| down <= call.start && call.end <= up).count();
    assert!(meanwhile > 100, "{meanwhile} were answered by the others meanwhile");
    assert!(of_the_lost.into_iter().any(|call| failed(&call)), "nothing was lost, and so nothing was shown");
    meanwhile
}
