//! The in-process store and the layers, through the suite that every backend passes.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "common/distant.rs"]
mod distant;
#[path = "common/remote.rs"]
mod remote;
#[path = "common/toy.rs"]
mod toy;

use distant::Distant;
use limiter_core::{
    Breaker, BreakerConfig, CasBackend, CasConfig, Coalesce, CoalesceConfig, Deadline, DeadlineConfig,
    Degrade, DegradeConfig, DenyCache, DenyCacheConfig, Memory, Observe, ObserveTrips, StandardConfig,
    standard,
};
use limiter_testkit::Harness;
use remote::Remote;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use toy::{Look, Quirks, Toy};

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
        cas("cas", Toy::default(), CasConfig::new())
            .inside(|| kept_for(Duration::from_secs(3_600)))
            .expiring(|| kept_for(Duration::from_millis(100))),
        cas("cas-in-parts", Toy::new(Quirks { parts: 3, ..Quirks::default() }), CasConfig::new()),
        cas("cas-silent", Toy::new(Quirks { is_silent: true, ..Quirks::default() }), CasConfig::new()),
        cas("cas-contended", Toy::new(Quirks { spurious: Some(3), ..Quirks::default() }), CasConfig::new()),
        cas(
            "cas-narrow",
            Toy::default(),
            CasConfig::new()
                .slots(NonZeroUsize::MIN)
                .max_batch(NonZeroUsize::MIN)
                .remember(2, Duration::from_secs(1)),
        ),
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

/// Every opening another instance on one store.
fn cas(name: &'static str, toy: Toy, config: CasConfig) -> Harness {
    Harness::new(name, move || {
        let instance = CasBackend::with_config("toy", toy.clone(), config);
        async move { instance }
    })
}

/// A store that keeps states so long beyond their time, and a look into it.
fn kept_for(time: Duration) -> std::future::Ready<(CasBackend<Toy>, Look)> {
    let config = CasConfig::new().grace(time).virtual_expiry(time);
    let backend = CasBackend::with_config("toy", Toy::default(), config);
    std::future::ready((backend.clone(), Look(backend)))
}

fn coalesce(name: &'static str, config: CoalesceConfig) -> Harness {
    Harness::new(name, move || async move { Coalesce::new(Distant(Memory::new()), config) })
}
