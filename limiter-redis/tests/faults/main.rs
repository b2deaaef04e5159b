//! Faults on real servers, in mid-load: nothing that holds without them is lost, and the service comes back by itself.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod again;
mod cluster;
mod give_back;
mod history;
mod keys;
mod load;
mod log;
mod sentinel;
mod single;
