//! Calls on schedule, whatever becomes of the earlier ones.

use crate::instance::{Instance, Key, USERS};
use crate::{CALLS_PER_SECOND, INSTANCES};
use distributed_rate_limiter::{Decision, Origin};
use fastrand::Rng;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

/// One call of a limiter, and what it was told.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) instance: u32,
    pub(crate) key: Key,
    pub(crate) cost: u64,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    /// Whether it was answered later than at once.
    pub(crate) has_waited: bool,
    pub(crate) told: Result<Decision, String>,
}

impl Call {
    pub(crate) fn took(&self) -> Duration {
        self.to - self.from
    }

    pub(crate) fn is_told_by(&self, origin: Origin) -> bool {
        self.told.as_ref().is_ok_and(|decision| decision.origin == origin)
    }

    /// What it was granted.
    pub(crate) fn granted(&self) -> u64 {
        if self.told.as_ref().is_ok_and(|decision| decision.allowed) { self.cost } else { 0 }
    }
}

pub(crate) struct Load {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<Vec<Call>>>,
}

struct Shared {
    epoch: Instant,
    is_over: AtomicBool,
    in_flight: Arc<AtomicUsize>,
    /// Of each instance the milliseconds at which it last heard the store, and last did without.
    heard: Vec<[AtomicU64; 2]>,
}

impl Load {
    pub(crate) fn start(instances: &Arc<Vec<Instance>>, epoch: Instant) -> Self {
        let heard = instances.iter().map(|_| Default::default()).collect();
        let shared =
            Arc::new(Shared { epoch, is_over: AtomicBool::new(false), in_flight: Arc::default(), heard });
        let callers = (0..instances.len())
            .map(|i| tokio::spawn(call_on_schedule(Arc::clone(instances), i, Arc::clone(&shared))));
        Self { callers: callers.collect(), shared }
    }

    /// How many calls are under way.
    pub(crate) fn in_flight(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.shared.in_flight)
    }

    /// Whether the store has answered everyone lately.
    pub(crate) fn is_well(&self) -> bool {
        let now = millis(self.shared.epoch.elapsed());
        let since = |last: &AtomicU64| now.saturating_sub(last.load(Ordering::Relaxed));
        self.shared.heard.iter().all(|[store, without]| since(store) < 200 && since(without) > 500)
    }

    pub(crate) async fn stop(self) -> Vec<Call> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let mut calls = Vec::new();
        for caller in self.callers {
            calls.extend(caller.await.expect("a caller that ends"));
        }
        calls
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One instance's calls, evenly spaced, and between those of the others.
async fn call_on_schedule(instances: Arc<Vec<Instance>>, i: usize, shared: Arc<Shared>) -> Vec<Call> {
    let apart = Duration::from_secs(1) * INSTANCES / CALLS_PER_SECOND;
    let number = instances[i].number;
    let first = tokio::time::Instant::from_std(shared.epoch + apart * number / INSTANCES);
    let mut schedule = tokio::time::interval_at(first, apart);
    let mut rng = Rng::with_seed(u64::from(number));
    let mut under_way = JoinSet::new();
    let mut calls = Vec::with_capacity(4_096);
    while !shared.is_over.load(Ordering::Relaxed) {
        schedule.tick().await;
        let (key, cost) = match rng.u8(..100) {
            0..30 => (Key::Hot, 1),
            30..60 => (Key::Counted, 1),
            60..70 => (Key::UsedUp, 1),
            70..75 => (Key::UsedUp, 0),
            _ => (Key::User(rng.u16(..USERS)), 1),
        };
        under_way.spawn(call(Arc::clone(&instances), i, key, cost, Arc::clone(&shared)));
        while let Some(done) = under_way.try_join_next() {
            calls.push(done.expect("a call that ends"));
        }
    }
    calls.extend(under_way.join_all().await);
    calls
}

async fn call(instances: Arc<Vec<Instance>>, i: usize, key: Key, cost: u64, shared: Arc<Shared>) -> Call {
    let instance = &instances[i];
    let text = key.text();
    let in_flight = &shared.in_flight;
    in_flight.fetch_add(1, Ordering::Relaxed);
    let from = shared.epoch.elapsed();
    let mut polls = 0;
    let told = {
        let mut deciding = pin!(instance.limiter.check_n(&text, cost));
        poll_fn(|context| {
            polls += 1;
            deciding.as_mut().poll(context)
        })
        .await
    };
    let to = shared.epoch.elapsed();
    in_flight.fetch_sub(1, Ordering::Relaxed);
    let [store, without] = &shared.heard[i];
    match &told {
        Ok(Decision { origin: Origin::Store, .. }) => store.store(millis(to), Ordering::Relaxed),
        Ok(Decision { origin: Origin::Degraded, .. }) => without.store(millis(to), Ordering::Relaxed),
        _ => {}
    }
    let told = told.map_err(|error| error.to_string());
    Call { instance: instance.number, key, cost, from, to, has_waited: polls > 1, told }
}
