//! Whether a server can be used as it is, in words for an operator.

use crate::error::unsent;
use crate::server::Server;
use crate::store::Servers;
use limiter_core::{BackendError, ErrorKind};
use memcache::exp::{Delete, Get, Meta, Set};
use std::sync::Arc;

pub(crate) async fn check(servers: &Servers, server: &Arc<Server>) -> Result<(), BackendError> {
    let (stats, evictions_before) = server.ask().await?;
    let config = |message: String| Err(unsent(ErrorKind::Config, "ready", server.address(), message));
    if let Some(message) = stats.is_too_old() {
        return config(message);
    }
    if !stats.has_cas() {
        return config(
            "its compare-and-swap is turned off (-C), without which limits are not exact".to_owned(),
        );
    }
    let evicted = stats.evictions().saturating_sub(evictions_before);
    if evicted > 0 && !servers.allow_eviction {
        return config(format!(
            "it has evicted {evicted} items since it was asked a minute ago or two, and so can forget limits that \
             are used up: give it more memory (-m), or accept it by allow_eviction()"
        ));
    }
    try_out(server).await
}

/// Does once what decisions and resets do, on a key that no limiter has.
async fn try_out(server: &Arc<Server>) -> Result<(), BackendError> {
    let key = format!("rl1!ready:{:016x}", fastrand::u64(..));
    let mut added = server.run("ready", vec![Set::new(&key, "ready").ttl_raw(2).add()]).await;
    added.pop().transpose()?;
    let mut got = server.run("ready", vec![Get::new(&key).meta(Meta::NONE.cas())]).await;
    got.pop().transpose()?;
    let mut deleted = server.run("ready", vec![Delete::new(&key)]).await;
    deleted.pop().transpose()?;
    Ok(())
}
