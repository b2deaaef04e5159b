//! The in-process store and the layers, through the suite that every backend passes.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "common/distant.rs"]
mod distant;
#[path = "common/remote.rs"]
mod remote;

use distant::Distant;
use limiter_core::{
    Breaker, BreakerConfig, Coalesce, CoalesceConfig, Deadline, DeadlineConfig, Degrade, DegradeConfig,
    DenyCache, DenyCacheConfig, Memory, Observe, ObserveTrips, StandardConfig, standard,
};
use limiter_testkit::Harness;
use remote::Remote;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

fn main() -> ExitCode {
    limiter_testkit::main([
        Harness::new("memory", async || Memory::new()),
        Harness::new("observe", async || Observe::new(Memory::new())),
        Harness::new("observe-trips", async || Observe::new(ObserveTrips::new(Distant(Memory::new())))),
        coalesce("coalesce", CoalesceConfig::new()),
        coalesce("coalesce-always", CoalesceConfig::new().eager(0)),
        coalesce(
            "coalesce-narrow",
            CoalesceConfig::new().eager(0).slots(NonZeroUsize::MIN).max_batch(NonZeroUsize::MIN),
        ),
        Harness::new("breaker", async || Breaker::new(Distant(Memory::new()), BreakerConfig::new())),
        Harness::new("degrade", async || Degrade::new(Distant(Memory::new()), DegradeConfig::new())),
        deny_cache("deny-cache", DenyCacheConfig::new()),
        deny_cache("deny-cache-until-reset", DenyCacheConfig::new().until_reset()),
        Harness::new("standard", async || standard(Arc::new(Remote::new()), layers())),
        Harness::new("standard-around-memory", async || standard(Arc::new(Distant(Memory::new())), layers())),
        Harness::new("deadline", async || Deadline::new(Distant(Memory::new()), patient())),
    ])
}

/// Around a store that says what it denies for, as those do that are far away.
fn deny_cache(name: &'static str, config: DenyCacheConfig) -> Harness {
    Harness::new(name, move || async move { DenyCache::new(Remote::new(), config) })
}

fn layers() -> StandardConfig {
    StandardConfig::new().deadline(patient())
}

/// A busy machine may take long.
fn patient() -> DeadlineConfig {
    DeadlineConfig::new().decision(Duration::from_secs(20)).upkeep(Duration::from_secs(20))
}

fn coalesce(name: &'static str, config: CoalesceConfig) -> Harness {
    Harness::new(name, move || async move { Coalesce::new(Distant(Memory::new()), config) })
}
