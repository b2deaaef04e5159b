//! Faults on real servers, in mid-load: nothing that holds without them is lost, and the service comes back by itself.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod drops;
mod eviction;
mod several;
mod single;
