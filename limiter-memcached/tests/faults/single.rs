//! One server: killed, hung, cut off.

use crate::common::{patient, server, url};
use limiter_core::Backend;
use limiter_memcached::Memcached;
use limiter_testkit::faults::{History, Load, LossKind, Outcome, Plan, equals_reference, is_back};
use limiter_testkit::{Direction, Proxy, RandomFaults, servers};
use std::sync::Arc;
use std::time::Duration;

/// A server, callers of it by way of a proxy, and a look at it past the proxy.
struct Scene {
    server: servers::Memcached,
    proxy: Proxy,
    stacks: Vec<Arc<dyn Backend>>,
    load: Load,
}

impl Scene {
    /// Two instances, each with callers.
    async fn start() -> Self {
        let server = server();
        let proxy = Proxy::start(server.addr()).expect("a proxy");
        let instance = || Memcached::connect(url(&[proxy.addr()])).expect("a URL of Memcached");
        let stacks: Vec<Arc<dyn Backend>> = vec![Arc::new(instance()), Arc::new(instance())];
        let load = Load::start(Plan::new(1).key_by_key().crossing(), &stacks);
        load.answers(500).await;
        Self { server, proxy, stacks, load }
    }

    /// From now on nothing stands against an answer.
    async fn is_back(&self) {
        is_back(&self.stacks).await;
        self.load.answers(300).await;
    }

    async fn end(self) -> History {
        let (open, accepted) = (self.proxy.open(), self.proxy.accepted());
        let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let history = self.load.check(&patient(&[self.server.addr()])).await;
        for stack in &self.stacks {
            equals_reference(&**stack).await;
        }
        // Of each instance: four trips, a few questions beside them, and a task for each caller's request of several.
        assert!(open <= 2 * 8 && alive < 24 * 6, "{open} connections, {alive} tasks");
        println!(
            "{} granted, {} denied, {} not applied, {} unknown; {accepted} connections",
            history.count(Outcome::Granted),
            history.count(Outcome::Denied),
            history.count(Outcome::NotApplied),
            history.count(Outcome::Unknown)
        );
        history
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_fault_nothing_fails() {
    let scene = Scene::start().await;
    scene.load.answers(2_000).await;
    let history = scene.end().await;
    assert_eq!(history.count(Outcome::Unknown), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_admits_one_capacity_more_for_each_time() {
    let mut scene = Scene::start().await;
    for _ in 0..3 {
        let server = &scene.server;
        scene.load.loses(LossKind::All, None, || server.kill());
        scene.load.failures(20).await;
        scene.server.restart().expect("a server that comes up");
        scene.is_back().await;
    }
    let _ = scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_left_and_found_again() {
    let scene = Scene::start().await;
    for _ in 0..2 {
        let accepted = scene.proxy.accepted();
        scene.server.pause();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let dialled = scene.proxy.accepted() - accepted;
        scene.server.resume();
        scene.is_back().await;
        // Until it counts as down each trip takes a connection; then there is one attempt at a time.
        assert!(dialled <= 2 * 12, "{dialled} connections to a server that hangs");
    }
    let history = scene.end().await;
    assert!(history.count(Outcome::Unknown) > 0);
}

async fn blackhole(direction: Direction) {
    let scene = Scene::start().await;
    for _ in 0..2 {
        scene.proxy.blackhole(direction);
        scene.load.failures(150).await;
        scene.proxy.heal();
        scene.is_back().await;
    }
    let _ = scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_on_the_way_there() {
    blackhole(Direction::ToServer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_on_the_way_back() {
    blackhole(Direction::ToClient).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_both_ways() {
    blackhole(Direction::Both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_and_cuts_at_any_byte_charge_at_most_once() {
    let scene = Scene::start().await;
    for _ in 0..20 {
        scene.proxy.reset();
        scene.load.answers(100).await;
    }
    scene.proxy.randomize(RandomFaults {
        seed: fastrand::u64(..),
        delay: Duration::from_millis(2),
        cuts: 10,
        resets: 10,
    });
    scene.load.answers(3_000).await;
    scene.proxy.heal();
    scene.is_back().await;
    let history = scene.end().await;
    assert!(history.count(Outcome::Unknown) > 10);
}
