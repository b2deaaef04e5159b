//! Containers that are cut off the network, paused and killed while several processes ask: only what they hold degrades,
//! no rule is broken, and all is back by itself.
//!
//! They are ignored unless asked for, as `./test --docker` does, and fail where no Docker engine answers.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod cluster;
mod fault;
mod processes;
mod sentinel;
#[path = "../faults/stacks.rs"]
mod stacks;

use fault::Fault;
use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(task) = processes::Task::given() {
        return task.run();
    }
    let trials = [Fault::Cut, Fault::Pause, Fault::Kill].into_iter().flat_map(|fault| {
        let trial = |set_up: &str, test: fn(Fault)| {
            let run = move || {
                test(fault);
                Ok(())
            };
            Trial::test(format!("{set_up}::{}", fault.name()), run).with_ignored_flag(true)
        };
        [trial("cluster", cluster::loses_a_primary), trial("sentinel", sentinel::loses_its_primary)]
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
