//! The observing layers: what a recorder and a log are told, in virtual time.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod decisions;
mod export;
mod fake;
mod figures;
#[path = "../common/logged.rs"]
mod logged;
mod notices;
#[path = "../common/now_or_never.rs"]
mod now_or_never;
mod recorded;
mod recorders;
mod trips;
