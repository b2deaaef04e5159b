//! Memcached, through the suite that every backend passes: one server, and three.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod inside;

use inside::Servers;
use limiter_core::{CasConfig, Coalesce, CoalesceConfig, DeadlineConfig, StandardConfig, standard};
use limiter_memcached::Memcached;
use limiter_testkit::Harness;
use limiter_testkit::servers;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// A busy machine may take long; what a reply that does not come means is tested elsewhere.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(url: &str, config: CasConfig) -> Memcached {
    // However many processes are faster, in turn.
    let config = config.patience(PATIENCE).attempts(NonZeroU32::MAX);
    Memcached::builder(url).timeout(PATIENCE).cas(config).build().expect("a URL of Memcached")
}

fn shared() -> String {
    servers::shared::memcached_url().unwrap_or_else(|error| panic!("{error}"))
}

fn three() -> String {
    let urls = servers::shared::memcached_urls().unwrap_or_else(|error| panic!("{error}"));
    urls.join(",").replace(",memcached://", ",")
}

/// A store that keeps states so long beyond their time, and a look into it.
fn kept_for(url: &str, time: Duration) -> (Memcached, Servers) {
    let memcached = connect(url, CasConfig::new().grace(time).virtual_expiry(time));
    (memcached.clone(), Servers::new(memcached, url))
}

const AN_HOUR: Duration = Duration::from_secs(3_600);
const A_MOMENT: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    limiter_testkit::main([
        Harness::new("memcached", async || connect(&shared(), CasConfig::new()))
            .across_processes()
            .inside(async || kept_for(&shared(), AN_HOUR))
            .expiring(async || kept_for(&shared(), A_MOMENT)),
        Harness::new("three", async || connect(&three(), CasConfig::new()))
            .across_processes()
            .inside(async || kept_for(&three(), AN_HOUR))
            .expiring(async || kept_for(&three(), A_MOMENT)),
        Harness::new("standard", async || {
            let deadline = DeadlineConfig::new().decision(PATIENCE).upkeep(PATIENCE);
            let memcached = connect(&shared(), CasConfig::new());
            standard(Arc::new(memcached), StandardConfig::new().deadline(deadline))
        }),
        Harness::new("forgetful", async || connect(&shared(), CasConfig::new().remember(0, Duration::ZERO))),
        // It needs none; one above it does no harm.
        Harness::new("coalesced", async || {
            Coalesce::new(connect(&shared(), CasConfig::new()), CoalesceConfig::new())
        }),
    ])
}
