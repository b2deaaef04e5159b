//! Stores that hang, die, vanish, restart or slow down in the middle of load: 1,000 requests a second by eight instances
//! of a limiter as it comes, each with connections of its own.
//!
//! One trial for each store and fault. `check` has what must hold; each trial prints what it measured.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod check;
mod fault;
mod instance;
mod load;
mod spy;
mod store;
mod watch;

use fault::Fault;
use instance::Instance;
use libtest_mimic::{Arguments, Failed, Trial};
use limiter_testkit::Proxy;
use load::Load;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};
use store::Store;
use watch::Watch;

/// How many instances share the limits.
const INSTANCES: u32 = 8;
/// What all of them are asked.
const CALLS_PER_SECOND: u32 = 1_000;
const BEFORE: Duration = Duration::from_millis(1_500);
const FAULT: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(3);
/// For what has no bound of its own: a machine on which others compile.
const PATIENCE: Duration = Duration::from_secs(20);

/// What any thread of this process has panicked with, also where somebody caught it.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn panics() -> Vec<String> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Waits until it is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() > PATIENCE {
            return Err(format!("{what}: not within {PATIENCE:?}"));
        }
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn outage(store: &Store, fault: Fault) -> Result<(), Failed> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let server = (store.start)(&threads);
    let proxy = Arc::new(Proxy::start(server.process().addr())?);
    let panicked = panics().len();

    let epoch = Instant::now();
    let entered = threads.enter();
    let instances: Vec<_> = (0..INSTANCES).map(|i| Instance::new(i, &*server, proxy.addr(), epoch)).collect();
    let instances = Arc::new(instances);
    let load = Load::start(&instances, epoch);
    let watch = Watch::start(&instances, &proxy, threads.handle(), load.in_flight(), epoch);
    sleep(BEFORE);
    wait_until("answers from the store before the fault", || load.is_well())?;
    let before = watch::memory()?;
    let dialled = proxy.accepted();

    let began = epoch.elapsed();
    fault.begin(server.process(), &proxy)?;
    let applied = epoch.elapsed();
    sleep(FAULT);
    let during = watch::memory()?;
    let dialled_during = proxy.accepted() - dialled;
    let ending = epoch.elapsed();
    fault.end(server.process(), &proxy)?;
    let ended = epoch.elapsed();
    sleep(AFTER);
    let well = wait_until("answers from the store after the fault", || load.is_well());
    let dialled_after = proxy.accepted() - dialled - dialled_during;
    let after = watch::memory()?;

    let calls = threads.block_on(load.stop());
    let seen = threads.block_on(watch.stop());
    let asked = server.backend(server.process().addr());
    let may_forget = asked.may_forget();
    let charged = threads.block_on(instance::charged(asked))?;
    let run = check::Run {
        fault,
        connections: store.connections,
        may_forget,
        times: check::Times { began, applied, ending, ended, over: epoch.elapsed() },
        trips: instances.iter().map(Instance::trips).collect(),
        calls,
        seen,
        charged,
        memory: [before, during, after],
        dialled: [dialled_during, dialled_after],
    };
    let mut broken = check::broken(&run);
    broken.extend(well.err());

    drop((instances, entered));
    let metrics = threads.metrics();
    broken.extend(wait_until("the end of all tasks", || metrics.num_alive_tasks() == 0).err());
    broken.extend(panics().split_off(panicked));
    println!("{} {}: {}", store.name, fault.name(), check::summary(&run));
    if broken.is_empty() { Ok(()) } else { Err(broken.join("\n").into()) }
}

fn main() -> ExitCode {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string());
        told(panic);
    }));
    let trial = |store: &'static Store, fault: Fault| {
        Trial::test(format!("{}::{}", store.name, fault.name()), move || outage(store, fault))
    };
    let trials = store::ALL.iter().flat_map(|store| Fault::ALL.map(|fault| trial(store, fault)));
    let mut arguments = Arguments::from_args();
    // Each has the machine for itself.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
