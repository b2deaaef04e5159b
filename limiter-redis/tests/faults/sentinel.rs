//! Behind Sentinel: the two servers change places, in good order and by a kill.

use crate::common::bend;
use crate::stacks::{patient, stacks};
use limiter_redis::Redis;
use limiter_testkit::faults::{Load, LossKind, Outcome, Plan, equals_reference, is_back};
use limiter_testkit::servers::RedisSentinel;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_over_is_found_and_a_loss_admits_one_capacity_more() {
    let servers = RedisSentinel::start().expect("a primary, a replica and sentinels");
    let hosts: Vec<String> = servers.sentinel_urls().iter().map(|url| url.replace("redis://", "")).collect();
    let url = format!("redis-sentinel://{}/{}", hosts.join(","), RedisSentinel::SERVICE);
    let stacks = stacks(&Redis::builder(url));
    let mut load = Load::start(Plan::new(1), &stacks);
    load.answers(300).await;

    // Sentinel does not wait for the replica to have all, and takes its time, up to a minute, to tell the primary that it
    // is none any more: until then whoever is connected to it is answered there. So it is told here.
    let old = servers.primary().expect("a primary");
    load.loses(LossKind::Fork, None, || {
        servers.failover().expect("a failover");
        let port = servers.primary().expect("a primary").port().to_string();
        bend(old, &["REPLICAOF", "127.0.0.1", &port]);
    });
    is_back(&stacks).await;
    load.answers(300).await;

    let next = servers.replica().expect("a replica");
    while next.info("master_link_status").expect("an answer").as_deref() != Some("up") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    load.loses(LossKind::Fork, None, || {
        servers.primary().expect("a primary").kill();
        servers.wait_for_primary(next.port())
    })
    .expect("another primary");
    is_back(&stacks).await;
    load.answers(300).await;

    let history = load.check(&patient(next)).await;
    println!("{} granted, {} unknown", history.count(Outcome::Granted), history.count(Outcome::Unknown));
    for stack in &stacks {
        equals_reference(&**stack).await;
    }
}
