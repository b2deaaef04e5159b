//! One server: killed, hung, cut off, and without its scripts.

use crate::common::{ask, bend};
use crate::keys::all_have_a_time_to_live;
use crate::stacks::{patient, stacks};
use limiter_core::Backend;
use limiter_redis::Redis;
use limiter_testkit::faults::{History, Load, LossKind, Outcome, Plan, equals_reference, is_back};
use limiter_testkit::servers;
use limiter_testkit::{Direction, Proxy, RandomFaults};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// A server, callers of it by way of a proxy, and a look at it past the proxy.
struct Scene {
    server: servers::Redis,
    proxy: Proxy,
    stacks: Vec<Arc<dyn Backend>>,
    load: Load,
}

impl Scene {
    async fn of(server: servers::Redis) -> Self {
        let proxy = Proxy::start(server.addr()).expect("a proxy");
        let stacks = stacks(&Redis::builder(format!("redis://{}", proxy.addr())));
        let load = Load::start(Plan::new(1), &stacks);
        load.answers(500).await;
        Self { server, proxy, stacks, load }
    }

    /// Without a fault nothing fails, however busy the machine.
    async fn patient() -> Self {
        let server = servers::Redis::start().expect("a Redis");
        let proxy = Proxy::start(server.addr()).expect("a proxy");
        let url = format!("redis://{}", proxy.addr());
        let stacks = stacks(&Redis::builder(url).timeout(Duration::from_secs(2)));
        let load = Load::start_patient(Plan::new(1), &stacks);
        load.answers(500).await;
        Self { server, proxy, stacks, load }
    }

    async fn start() -> Self {
        Self::of(servers::Redis::start().expect("a Redis")).await
    }

    /// From now on nothing stands against an answer.
    async fn is_back(&self) {
        is_back(&self.stacks).await;
        self.load.answers(500).await;
    }

    async fn end(self) -> History {
        let (open, accepted) = (self.proxy.open(), self.proxy.accepted());
        let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let history = self.load.check(&patient(&self.server)).await;
        for stack in &self.stacks {
            equals_reference(&**stack).await;
        }
        all_have_a_time_to_live(&self.server);
        // One connection for each store, and their drivers; what was given up is closed.
        assert!(open <= 2 && alive < 24 + 8, "{open} connections, {alive} tasks");
        println!("{}; {accepted} connections", history.summary());
        history
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persistent_server_that_is_killed_loses_nothing_that_was_answered() {
    let scene = Scene::of(servers::Redis::builder().persistent().start().expect("a Redis")).await;
    for _ in 0..3 {
        scene.server.kill();
        scene.load.failures(20).await;
        scene.server.restart().expect("a server that comes up");
        scene.is_back().await;
    }
    let _ = scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_admits_one_capacity_more_for_each_time() {
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
        // An attempt takes up to a second, and there is one at a time.
        assert!(dialled <= 4, "{dialled} connections to a server that hangs");
    }
    let _ = scene.end().await;
}

/// However many calls were under way on a connection that leads nowhere, one other takes its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_late_dial_once() {
    let server = servers::Redis::start().expect("a Redis");
    let proxy = Proxy::start(server.addr()).expect("a proxy");
    let url = format!("redis://{}", proxy.addr());
    let redis = Redis::builder(url).timeout(Duration::from_millis(100)).build().expect("a URL of Redis");
    let _ = ask(&redis, "10/day", "a").await.expect("an answer");
    proxy.blackhole(Direction::Both);
    let mut calls = JoinSet::new();
    for _ in 0..150 {
        let redis = redis.clone();
        calls.spawn(async move { ask(&redis, "10/day", "a").await.expect_err("a hole") });
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let _errors = calls.join_all().await;
    // An attempt lasts a second.
    assert_eq!(proxy.accepted(), 2);
}

async fn blackhole(direction: Direction) {
    let scene = Scene::start().await;
    for _ in 0..2 {
        let accepted = scene.proxy.accepted();
        scene.proxy.blackhole(direction);
        scene.load.failures(150).await;
        let dialled = scene.proxy.accepted() - accepted;
        scene.proxy.heal();
        scene.is_back().await;
        assert!(dialled <= 4, "{dialled} connections into a hole");
    }
    let history = scene.end().await;
    assert!(history.count(Outcome::Unknown) > 0);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_are_flushed_every_few_milliseconds_are_no_error() {
    let scene = Scene::patient().await;
    let mut outside = scene.server.connect().expect("a connection");
    let before = scene.load.errors();
    for _ in 0..300 {
        outside.command(&["SCRIPT", "FLUSH"]).expect("a flush");
        scene.load.answers(10).await;
    }
    assert_eq!(scene.load.errors(), before, "{}", scene.load.last_error());
    bend(&scene.server, &["SCRIPT", "FLUSH"]);
    let _ = scene.end().await;
}
