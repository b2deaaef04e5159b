//! Proves a [`Backend`](limiter_core::Backend): one conformance suite, for stores, layers and stacks of them.
//!
//! Adopting it takes a test without a harness of its own (`harness = false` in the manifest):
//! ```no_run
//! // tests/conformance.rs
//! use limiter_core::Memory;
//! use limiter_testkit::Harness;
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     limiter_testkit::main([Harness::new("memory", async || Memory::new())])
//! }
//! ```
//! Each case is a named trial, `memory::boundary::a_denied_request_is_allowed_when_promised::fixed_window`, so
//! that one failure hides no other; `cargo test --test conformance -- boundary` runs some. A case uses keys of
//! its own in a random namespace and virtual time, flushes nothing, and leaves alone what it did not make.
//!
//! More can be tested of a backend that gives more of itself, each by a method of [`Harness`]: that several instances
//! and processes share one store, that garbage in it heals, that its states end.
//!
//! For what a backend does when its store fails there are real [`servers`] to kill and pause, a [`Proxy`] to break
//! connections, and [`faults`] to tell whether the answers were right.
#![expect(clippy::expect_used, reason = "a case fails by panicking")]

mod cases;
pub mod faults;
mod fixture;
mod harness;
mod inside;
mod proxy;
mod reference;
pub mod servers;
mod worker;

pub use cases::Case;
pub use harness::{Harness, main};
pub use inside::Inside;
pub use proxy::{Direction, Proxy, RandomFaults};
pub use reference::Reference;
