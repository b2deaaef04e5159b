//! The in-process store, through the suite that every backend passes.

use limiter_core::Memory;
use limiter_testkit::Harness;
use std::process::ExitCode;

fn main() -> ExitCode {
    limiter_testkit::main([Harness::new("memory", async || Memory::new())])
}
