//! A look at this process every few milliseconds, from a thread of its own.

use crate::instance::Instance;
use limiter_testkit::Proxy;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

pub(crate) struct Watch {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
    task: tokio::task::JoinHandle<Vec<(Duration, Duration)>>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When the machine did not let run what wanted to: a thread, and a task.
    stalls: [Vec<(Duration, Duration)>; 2],
    /// Of each instance the times at which its breaker was found to have opened or closed.
    pub(crate) breakers: Vec<Vec<(Duration, bool)>>,
    /// The most connections to the store.
    pub(crate) sockets: usize,
    /// The most tasks besides calls.
    pub(crate) tasks: usize,
}

const EVERY: Duration = Duration::from_millis(10);
/// What a machine with nothing to do is late by.
const NO_STALL: Duration = Duration::from_millis(2);

impl Watch {
    pub(crate) fn start(
        instances: &Arc<Vec<Instance>>,
        proxy: &Arc<Proxy>,
        runtime: &Handle,
        calls: Arc<AtomicUsize>,
        epoch: Instant,
    ) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        let task = runtime.spawn(late_ticks(Arc::clone(&is_over), epoch));
        let (instances, proxy, runtime) = (Arc::clone(instances), Arc::clone(proxy), runtime.clone());
        let thread = std::thread::spawn(move || {
            let mut seen = Seen { breakers: vec![Vec::new(); instances.len()], ..Seen::default() };
            while !until.load(Ordering::Relaxed) {
                let due = epoch.elapsed() + EVERY;
                std::thread::sleep(EVERY);
                let now = epoch.elapsed();
                if now > due + NO_STALL {
                    seen.stalls[0].push((due, now));
                }
                for (instance, changes) in instances.iter().zip(&mut seen.breakers) {
                    let is_open = instance.is_open();
                    if is_open != changes.last().is_some_and(|(_, was_open)| *was_open) {
                        changes.push((epoch.elapsed(), is_open));
                    }
                }
                seen.sockets = seen.sockets.max(sockets(&proxy));
                let calls = calls.load(Ordering::Relaxed);
                seen.tasks = seen.tasks.max(runtime.metrics().num_alive_tasks().saturating_sub(calls));
            }
            seen
        });
        Self { is_over, thread, task }
    }

    pub(crate) async fn stop(self) -> Seen {
        self.is_over.store(true, Ordering::Relaxed);
        let late = self.task.await.expect("a task that ends");
        let mut seen = self.thread.join().expect("a watch that ends");
        seen.stalls[1] = late;
        seen
    }
}

/// What a task that only sleeps is late by, among those that want to run: both processors may be others'.
async fn late_ticks(is_over: Arc<AtomicBool>, epoch: Instant) -> Vec<(Duration, Duration)> {
    let mut late = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let due = epoch.elapsed() + EVERY;
        tokio::time::sleep(EVERY).await;
        let now = epoch.elapsed();
        if now > due + NO_STALL {
            late.push((due, now));
        }
    }
    late
}

impl Seen {
    /// For how long in all the machine stood still between these times.
    pub(crate) fn stalled(&self, from: Duration, to: Duration) -> Duration {
        let overlap = |(start, end): &(Duration, Duration)| (*end).min(to).saturating_sub((*start).max(from));
        self.stalls.iter().map(|stalls| stalls.iter().map(overlap).sum()).max().unwrap_or_default()
    }
}

/// How many sockets of this process lead to the proxy: where the system says so those that somebody holds, also if the
/// other side has closed them; elsewhere what the proxy knows.
fn sockets(proxy: &Proxy) -> usize {
    let Ok(table) = std::fs::read_to_string("/proc/net/tcp") else {
        return usize::try_from(proxy.open()).unwrap_or(usize::MAX);
    };
    let port = format!(":{:04X}", proxy.addr().port());
    let held = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // The other side's address, and the inode, which is 0 once nobody holds it.
        let inode = words.get(9).filter(|inode| **inode != "0")?;
        words.get(2)?.ends_with(&port).then(|| (*inode).to_owned())
    };
    // A table that changes while it is read has some lines twice.
    table.lines().filter_map(held).collect::<HashSet<_>>().len()
}

/// What this process holds in memory, in KiB.
pub(crate) fn memory() -> Result<u64, String> {
    let me = std::process::id().to_string();
    let output = std::process::Command::new("ps").args(["-o", "rss=", "-p", &me]).output();
    let output = output.map_err(|error| format!("ps, of Debian's package procps: {error}"))?;
    String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|error| format!("what ps says: {error}"))
}
