//! Races: however requests interleave, the limit holds exactly.

use crate::fixture::{Fixture, quota, request};
use crate::worker;
use limiter_core::{Algorithm, Request};

const TASKS: usize = 64;

/// Runs a task of its own for each number below [`TASKS`]; the sum of what they return.
async fn tasks<F>(task: impl Fn(usize) -> F) -> u64
where
    F: Future<Output = u64> + Send + 'static,
{
    let running: Vec<_> = (0..TASKS).map(|i| tokio::spawn(task(i))).collect();
    let mut sum = 0;
    for task in running {
        sum += task.await.expect("no task panics");
    }
    sum
}

pub(super) async fn tasks_on_one_key(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("100/day", algorithm);
    let admitted = tasks(|_| {
        let fixture = fixture.clone();
        async move {
            let mut admitted = 0;
            for _ in 0..4 {
                admitted += u64::from(fixture.one("hot", quota, 1, 0).await.allowed);
            }
            admitted
        }
    })
    .await;
    assert_eq!(admitted, 100);
}

/// A batch holds the same key many times, and other tasks' batches hold it too.
pub(super) async fn hot_batches(fixture: Fixture) {
    let quota = quota("500/day", Algorithm::TokenBucket);
    let admitted = tasks(|_| {
        let fixture = fixture.clone();
        async move {
            let batch: Vec<Request> = (0..16).map(|_| request([fixture.check("hot", quota, 1)], 0)).collect();
            fixture.verdicts(&batch).await.iter().filter(|verdict| verdict.allowed()).count() as u64
        }
    })
    .await;
    assert_eq!(admitted, 500);
}

/// Requests over overlapping pairs of keys, in both orders: what was granted is what the keys lost.
pub(super) async fn requests_of_two_keys(fixture: Fixture) {
    let limits = [("x", 100), ("y", 60), ("z", 80)];
    let check = move |fixture: &Fixture, i: usize, cost: u64| {
        let (name, limit) = limits[i % 3];
        fixture.check(name, quota(&format!("{limit}/day"), Algorithm::FixedWindow), cost)
    };
    let granted = tasks(|i| {
        let fixture = fixture.clone();
        async move {
            let mut granted = 0;
            for round in i..i + 6 {
                let checks = [check(&fixture, round, 1), check(&fixture, round + 1 + i % 2, 1)];
                granted += u64::from(fixture.ask(&request(checks, 0)).await.allowed());
            }
            granted
        }
    })
    .await;
    let mut lost = 0;
    for (i, (_, limit)) in limits.into_iter().enumerate() {
        lost += limit - fixture.ask(&request([check(&fixture, i, 0)], 0)).await.decisions()[0].remaining;
    }
    assert_eq!(lost, 2 * granted);
    assert!((60..=120).contains(&granted), "{granted} were granted of the 120 that fit");
}

/// Two instances in turn and at once: what one admits, the other counts.
pub(super) async fn two_instances(fixture: Fixture, algorithm: Algorithm) {
    let quota = quota("100/day", algorithm);
    let instances = [fixture.another().await, fixture];
    for (turn, instance) in [&instances[0], &instances[1], &instances[0]].into_iter().enumerate() {
        let decision = instance.one("hot", quota, 10, 0).await;
        assert_eq!((decision.allowed, decision.remaining), (true, 90 - 10 * turn as u64), "turn {turn}");
    }
    let admitted = tasks(|i| {
        let fixture = instances[i % 2].clone();
        async move {
            let mut admitted = 0;
            for _ in 0..4 {
                admitted += u64::from(fixture.one("hot", quota, 1, 0).await.allowed);
            }
            admitted
        }
    })
    .await;
    assert_eq!(admitted, 70);
}

/// Eight processes, each with several tasks.
pub(super) async fn processes_on_one_key(fixture: Fixture, algorithm: Algorithm) {
    let (sent, admitted) = worker::race(&fixture, algorithm, 1_000, 8);
    assert_eq!(admitted, 1_000, "of {sent} requests");
}
