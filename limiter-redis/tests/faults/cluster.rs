//! A cluster: nodes that die or hang, slots that move, replicas that take over.

use crate::common::{answer, bend};
use crate::keys::all_have_a_time_to_live;
use crate::stacks::stacks;
use limiter_core::{Algorithm, Backend, Check, Effect, ErrorKind, Keyspace, Placement, Request, StorageKey};
use limiter_redis::{Redis, RedisBuilder};
use limiter_testkit::faults::{History, Load, LossKind, Outcome, Plan, equals_reference, is_back, lasting};
use limiter_testkit::servers::{self, RedisCluster};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Three nodes for tests that bend none.
pub(crate) fn shared() -> &'static RedisCluster {
    static SHARED: LazyLock<RedisCluster> =
        LazyLock::new(|| RedisCluster::start(3, 0).expect("a cluster of three"));
    &SHARED
}

pub(crate) fn url(cluster: &RedisCluster) -> String {
    let hosts: Vec<String> = cluster.urls().iter().map(|url| url.replace("redis://", "")).collect();
    format!("redis-cluster://{}", hosts.join(","))
}

/// A store that waits for as long as a busy machine may take.
pub(crate) fn connect(cluster: &RedisCluster) -> Redis {
    patient(cluster).build().expect("a URL of Redis")
}

pub(crate) fn patient(cluster: &RedisCluster) -> RedisBuilder {
    Redis::builder(url(cluster)).timeout(Duration::from_secs(5)).connect_timeout(Duration::from_secs(5))
}

/// What decides a key's slot.
pub(crate) fn tag(key: &StorageKey) -> String {
    format!("{:04x}", key.place().as_u64() & 0xffff)
}

/// The slot of a name, as a node sees it.
pub(crate) fn slot(node: &servers::Redis, name: &[u8]) -> i64 {
    let slot = node.command(&[&b"CLUSTER"[..], b"KEYSLOT", name]).expect("a slot");
    slot.int().expect("a number")
}

/// Which of three nodes has a slot at first.
pub(crate) fn home(slot: i64) -> usize {
    (0..3).find(|i| slot < 16_384 * (i + 1) / 3).and_then(|i| usize::try_from(i).ok()).expect("a slot")
}

async fn end(cluster: &RedisCluster, load: Load, stacks: &[Arc<dyn Backend>]) -> History {
    let history = load.check(&connect(cluster)).await;
    println!("{}", history.summary());
    for stack in stacks {
        equals_reference(&**stack).await;
    }
    cluster.nodes().iter().filter(|node| node.pid().is_some()).for_each(all_have_a_time_to_live);
    history
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_down_fails_only_its_own_requests() {
    let cluster = RedisCluster::start(3, 0).expect("a cluster");
    let nodes = cluster.nodes();
    for node in nodes {
        bend(node, &["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }
    let stacks = stacks(&patient(&cluster));
    let plan = Plan::new(6).crossing();
    let homes: Vec<usize> = plan.keys.iter().map(|key| home(slot(&nodes[0], tag(key).as_bytes()))).collect();
    let mut load = Load::start_patient(plan, &stacks);
    load.answers(500).await;

    // Hung: whoever asks the others does not wait for it, as whoever asks it does for up to five seconds.
    nodes[2].pause();
    let space = Keyspace::new("faults", "others", Algorithm::TokenBucket).expect("short names");
    let mut names = (0_u32..).map(|i| space.key(&i.to_be_bytes()));
    let start = Instant::now();
    let mut asked = 0;
    while start.elapsed() < Duration::from_millis(1_500) {
        let key =
            names.find(|key| home(slot(&nodes[0], tag(key).as_bytes())) != 2).expect("a key of the others");
        let check = Check { key, quota: lasting(Algorithm::TokenBucket, 10), cost: 1 };
        for stack in &stacks {
            let request = Request::one(check.clone()).expect("a check");
            let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
            let asking = stack.decide(std::slice::from_ref(&request));
            let verdict = tokio::time::timeout_at(deadline, asking).await.expect("an answer in time");
            let _ = verdict[0].as_ref().expect("an answer of a node that is there");
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked} were asked");
    nodes[2].resume();
    is_back(&stacks).await;

    let down = load.now();
    let lost = (0..homes.len()).filter(|i| homes[*i] == 2).collect();
    load.loses(LossKind::All, Some(lost), || nodes[2].kill());
    load.failures(50).await;
    load.answers(1_500).await;
    let up = load.now();
    nodes[2].restart().expect("a node that comes up");
    cluster.wait_until_ok().expect("a cluster that is whole");
    is_back(&stacks).await;
    load.answers(300).await;

    let history = load.check(&connect(&cluster)).await;
    let others = history.calls.iter().filter(|call| {
        down <= call.start && call.end <= up && call.wants.iter().all(|(i, _)| homes[*i] != 2)
    });
    let (mut answered, mut failed) = (0, Vec::new());
    for call in others {
        match call.outcome {
            Outcome::Granted | Outcome::Denied => answered += 1,
            Outcome::NotApplied | Outcome::Unknown => failed.push(call),
        }
    }
    assert!(failed.is_empty() && answered > 500, "{answered} answered, {failed:#?}");
    for stack in &stacks {
        equals_reference(&**stack).await;
    }
    nodes.iter().for_each(all_have_a_time_to_live);
}

/// How often a node has answered with an error of this code.
fn answered(node: &servers::Redis, code: &str) -> u64 {
    let count = node.info(&format!("errorstat_{code}")).expect("an answer");
    count.and_then(|count| count.strip_prefix("count=")?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_are_followed_and_counts_are_exact() {
    let cluster = RedisCluster::start(3, 0).expect("a cluster");
    let nodes = cluster.nodes();
    let stacks = stacks(&patient(&cluster));
    let plan = Plan::new(1).crossing();
    let moving = plan.keys[plan.group(0)[0]].clone();
    let place = moving.place();
    let singles: Vec<StorageKey> = (0..10)
        .map(|i| {
            let algorithm = Algorithm::ALL[i % Algorithm::ALL.len()];
            let space = Keyspace::new("faults", "moving", algorithm).expect("short names");
            space.key(&i.to_be_bytes()).placed(place)
        })
        .collect();
    let slot = slot(&nodes[0], tag(&moving).as_bytes());
    let first = home(slot);
    let load = Load::start_patient(plan.and_counted(singles), &stacks);
    load.answers(300).await;

    for (step, (from, to)) in [(first, (first + 1) % 3), ((first + 1) % 3, first)].into_iter().enumerate() {
        begin_to_move(nodes, slot, from, to);
        while move_keys(nodes, slot, from, to, 2) {
            load.answers(10).await;
        }
        // A key that is born now is born over there.
        for (i, stack) in stacks.iter().enumerate() {
            let space = Keyspace::new("faults", "born", Algorithm::SlidingLog).expect("short names");
            let key = space.key(format!("{step} {i}").as_bytes()).placed(place);
            let quota = lasting(Algorithm::SlidingLog, 2);
            let request = Request::one(Check { key, quota, cost: 2 }).expect("a check");
            let verdict = stack.decide(std::slice::from_ref(&request)).await.pop().expect("one answer");
            assert!(verdict.expect("an answer by way of ASK").allowed());
            let again = answer(&connect(&cluster), &request).await.expect("an answer");
            assert!(!again.allowed(), "what is born on the way is kept");
        }
        for node in [to, from, 3 - to - from] {
            bend(&nodes[node], &["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id(&nodes[to])]);
        }
        load.answers(300).await;
    }
    for code in ["MOVED", "ASK", "TRYAGAIN"] {
        let count: u64 = nodes.iter().map(|node| answered(node, code)).sum();
        assert!(count > 0, "no {code} was met");
    }
    // For as long as some of a request's keys are here and some there, it waits, or is told so.
    for call in end(&cluster, load, &stacks).await.calls {
        match call.outcome {
            Outcome::Granted | Outcome::Denied => {}
            Outcome::NotApplied => assert!(call.wants.len() > 1, "{call:?}"),
            Outcome::Unknown => panic!("{call:?}"),
        }
    }
}

/// A request whose keys are partly here and partly there is told so where it would hold up others, and waits where not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_waits_for_its_slot_holds_up_no_other() {
    let cluster = RedisCluster::start(3, 0).expect("a cluster");
    let nodes = cluster.nodes();
    let redis = connect(&cluster);
    let quota = lasting(Algorithm::TokenBucket, 10);
    let space = Keyspace::new("faults", "apart", Algorithm::TokenBucket).expect("short names");
    let check = |key: &StorageKey| Check { key: key.clone(), quota, cost: 1 };
    let pair = [space.key(b"a"), space.key(b"b")].map(|key| key.placed(Placement::of(b"apart")));
    let moving = slot(&nodes[0], tag(&pair[0]).as_bytes());
    let (from, to) = (home(moving), (home(moving) + 1) % 3);
    let pair = Request::new(pair.each_ref().map(check)).expect("keys that differ");
    assert!(answer(&redis, &pair).await.expect("an answer").allowed());
    begin_to_move(nodes, moving, from, to);
    assert!(move_keys(nodes, moving, from, to, 1), "one of two");

    let others = (0_u32..).map(|i| space.key(&i.to_be_bytes()));
    let others = others.filter(|key| home(slot(&nodes[0], tag(key).as_bytes())) == from).take(20);
    let others = others.map(|key| Request::one(check(&key)).expect("a check"));
    let batch: Vec<Request> = [pair.clone()].into_iter().chain(others).collect();
    let start = Instant::now();
    let answers = redis.decide(&batch).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let told = answers[0].as_ref().expect_err("keys that are apart");
    assert_eq!((told.kind(), told.effect()), (ErrorKind::Contention, Effect::NotApplied), "{told}");
    for other in &answers[1..] {
        assert!(other.as_ref().expect("an answer").allowed());
    }
    // Nor those who want one of its keys.
    let alone = pair.checks().iter().map(|check| Request::one(check.clone()).expect("a check"));
    let batch: Vec<Request> = [pair.clone()].into_iter().chain(alone).collect();
    let told: Vec<bool> = redis.decide(&batch).await.iter().map(Result::is_ok).collect();
    assert_eq!(told, [false, true, true]);
    let waiting = tokio::spawn(async move { answer(&redis, &pair).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    while move_keys(nodes, moving, from, to, 10) {}
    assert!(waiting.await.expect("a task").expect("an answer").allowed());
}

fn id(node: &servers::Redis) -> String {
    node.command(&["CLUSTER", "MYID"]).expect("an id").text().expect("text").to_owned()
}

fn begin_to_move(nodes: &[servers::Redis], slot: i64, from: usize, to: usize) {
    let slot = slot.to_string();
    bend(&nodes[to], &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(&nodes[from])]);
    bend(&nodes[from], &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(&nodes[to])]);
}

/// Moves so many keys of a slot; whether there were any.
fn move_keys(nodes: &[servers::Redis], slot: i64, from: usize, to: usize, count: u32) -> bool {
    let keys = nodes[from]
        .command(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &count.to_string()])
        .expect("keys");
    let names: Vec<&str> = keys.items().iter().filter_map(|key| key.text()).collect();
    if names.is_empty() {
        return false;
    }
    let port = nodes[to].port().to_string();
    let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
    words.extend(names);
    bend(&nodes[from], &words);
    true
}

/// However many there are, of themselves they are not too many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_slots_of_one_batch_leave_each_other_room() {
    let quota = lasting(Algorithm::TokenBucket, 10);
    for (checks, requests, most) in [(2, 40, 16), (8, 64, 128), (64, 64, 1_024)] {
        let redis = patient(shared()).max_in_flight(most).build().expect("a URL of Redis");
        let name = format!("room {}", fastrand::u64(..));
        let space = Keyspace::new("faults", &name, Algorithm::TokenBucket).expect("short names");
        let check = |i: u32| Check { key: space.key(&i.to_be_bytes()), quota, cost: 1 };
        let request =
            |i: u32| Request::new((i * checks..(i + 1) * checks).map(check)).expect("keys that differ");
        let batch: Vec<Request> = (0..requests).map(request).collect();
        for answer in redis.decide(&batch).await {
            assert!(answer.expect("an answer").allowed(), "{checks} checks of {requests} requests");
        }
    }
}

/// One node hangs: requests over several slots wait for it side by side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_slots_wait_for_a_node_once() {
    let cluster = RedisCluster::start(3, 0).expect("a cluster");
    let redis =
        Redis::builder(url(&cluster)).timeout(Duration::from_secs(1)).build().expect("a URL of Redis");
    let quota = lasting(Algorithm::TokenBucket, 10);
    let space = Keyspace::new("faults", "hung", Algorithm::TokenBucket).expect("short names");
    let check = |i: u32| Check { key: space.key(&i.to_be_bytes()), quota, cost: 1 };
    let pair = |i: u32| Request::new([check(2 * i), check(2 * i + 1)]).expect("keys that differ");
    let batch: Vec<Request> = (0..40).map(pair).collect();
    for answer in redis.decide(&batch).await {
        assert!(answer.expect("an answer").allowed());
    }
    cluster.nodes()[2].pause();
    let start = Instant::now();
    let answers = redis.decide(&batch).await;
    // A look and what follows it take a second each at the most.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert!(answers.iter().any(Result::is_ok) && answers.iter().any(Result::is_err), "{answers:?}");
    cluster.nodes()[2].resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_takes_over_is_followed() {
    let cluster = RedisCluster::start(3, 1).expect("a cluster with replicas");
    let nodes = cluster.nodes();
    let is_primary =
        |node: &servers::Redis| node.info("role").expect("an answer").as_deref() == Some("master");

    // In good order the replica waits until it has all, so that nothing is lost.
    let stacks = stacks(&Redis::builder(url(&cluster)));
    let load = Load::start(Plan::new(3), &stacks);
    load.answers(300).await;
    bend(&nodes[3], &["CLUSTER", "FAILOVER"]);
    while !is_primary(&nodes[3]) {
        load.answers(10).await;
    }
    is_back(&stacks).await;
    load.answers(300).await;
    end(&cluster, load, &stacks).await;

    let mut load = Load::start(Plan::new(3), &stacks);
    load.answers(300).await;
    load.loses(LossKind::Fork, None, || {
        nodes[1].kill();
        while !is_primary(&nodes[4]) {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    cluster.wait_until_ok().expect("a cluster that is served");
    is_back(&stacks).await;
    load.answers(300).await;
    end(&cluster, load, &stacks).await;
}

/// As many checks as several trips carry, all of one slot.
#[tokio::test]
async fn a_batch_of_more_checks_than_a_trip_carries_is_split() {
    let redis = connect(shared());
    let space = Keyspace::new("faults", "split", Algorithm::FixedWindow).expect("short names");
    let place = limiter_core::Placement::of(b"split");
    let quota = lasting(Algorithm::FixedWindow, 1_000);
    let key = |i: u64| space.key(&i.to_be_bytes()).placed(place);
    let check = |i| Check { key: key(i), quota, cost: 1 };
    let batch: Vec<Request> =
        (0..1_000).map(|i| Request::new((i..i + 6).map(check)).expect("keys that differ")).collect();
    for answer in redis.decide(&batch).await {
        assert!(answer.expect("an answer").allowed());
    }
    let peek = Request::one(Check { cost: 0, ..check(500) }).expect("a check");
    assert_eq!(answer(&redis, &peek).await.expect("an answer").decisions()[0].remaining, 1_000 - 6);
}
