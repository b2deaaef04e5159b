//! Whether a server can be used as it is, in words for an operator.

use crate::backend::Redis;
use crate::error::unsent;
use crate::route::Route;
use crate::server::Server;
use crate::trips::Trips;
use futures_util::future::try_join_all;
use limiter_core::{
    Backend, BackendError, Check, Effect, ErrorKind, Keyspace, NameError, Quota, QuotaError, Request,
    Timestamp,
};
use redis::{ErrorKind as Driver, RedisError, ServerErrorKind, Value};
use std::collections::HashSet;
use std::error::Error;
use std::time::Duration;

/// The oldest version that was run. Those before it wrap an error that a script meets in one of their own, by which
/// nobody can tell whether something was recorded.
const OLDEST: (u32, u32) = (7, 0);

pub(crate) async fn check(redis: &Redis) -> Result<(), BackendError> {
    let trips = &*redis.trips;
    let servers = match &trips.route {
        Route::One(server) => {
            check_server(trips, server).await?;
            1
        }
        Route::Cluster(cluster) => {
            let servers = cluster.servers("ready", trips.patience(None)).await?;
            for server in &servers {
                check_server(trips, server).await?;
            }
            servers.len()
        }
    };
    try_out(redis, servers).await
}

async fn check_server(trips: &Trips, server: &Server) -> Result<(), BackendError> {
    let info = match server.command("ready", &redis::cmd("INFO"), trips.patience(None)).await {
        Ok(info) => text_of(info),
        // Whoever may not ask is not told; what the scripts need is tried out.
        Err(error) if error.kind() == ErrorKind::Config && error.effect() == Effect::NotApplied => {
            return refused_for_good(error);
        }
        Err(error) => return Err(error),
    };
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let version = field("redis_version").unwrap_or_default();
    if is_too_old(version) {
        let (major, minor) = OLDEST;
        return Err(config(&format!(
            "Redis {version} is older than {major}.{minor}, the oldest that this store knows"
        )));
    }
    let (policy, most) =
        (field("maxmemory_policy").unwrap_or("noeviction"), field("maxmemory").unwrap_or("0"));
    if !trips.allow_eviction && policy != "noeviction" && most != "0" {
        return Err(config(&format!(
            "maxmemory-policy {policy} lets Redis forget limits that are used up when its memory is full: \
             set it to noeviction, or accept it by allow_eviction()"
        )));
    }
    if field("role") == Some("slave") {
        return Err(config("the server is a replica, which takes no writes: connect to its primary"));
    }
    Ok(())
}

/// A refusal of INFO alone is none of the store; a refused login is.
fn refused_for_good(error: BackendError) -> Result<(), BackendError> {
    let refusal = error.source().and_then(|cause| cause.downcast_ref::<RedisError>());
    let is_of_info = refusal.is_some_and(|cause| cause.kind() == Driver::Server(ServerErrorKind::NoPerm));
    if is_of_info { Ok(()) } else { Err(error) }
}

fn text_of(info: Value) -> String {
    match info {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
        _ => String::new(),
    }
}

/// A version that is not understood is none of those.
fn is_too_old(version: &str) -> bool {
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    parts.next().zip(parts.next()).is_some_and(|version: (u32, u32)| version < OLDEST)
}

/// Does once on each server what decisions and resets do, with every command that the scripts cannot do without, on keys of
/// its own.
async fn try_out(redis: &Redis, servers: usize) -> Result<(), BackendError> {
    let now = Timestamp::now();
    // One by the server's clock. The second entry of a log is appended, and its time to live prolonged.
    let probes = [
        ("1000/2h", None),
        ("1000/2h fixed-window", Some(now)),
        ("1000/2h sliding-counter", Some(now)),
        ("1000/2h sliding-log", Some(now)),
        ("1000/2h sliding-log", Some(now + Duration::from_secs(7_000))),
    ];
    let gives_back = matches!(redis.trips.route, Route::Cluster(_));
    let mut keys = Vec::with_capacity(probes.len() * servers);
    for (text, at) in probes {
        let requests = probe(redis, servers, text, at).map_err(|error| config(&error.to_string()))?;
        keys.extend(requests.iter().flat_map(|request| request.checks()).map(|check| check.key.clone()));
        try_join_all(
            requests.iter().map(|request| try_on_one(&redis.trips, request, gives_back && at.is_none())),
        )
        .await?;
    }
    redis.reset(&keys).await
}

async fn try_on_one(trips: &Trips, request: &Request, gives_back: bool) -> Result<(), BackendError> {
    let taken = trips.take(request).await?;
    match request.checks() {
        [check] if gives_back => trips.give_back(check, request.instant(), &taken).await,
        _ => Ok(()),
    }
}

#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Quota(#[from] QuotaError),
    #[error(transparent)]
    Request(#[from] limiter_core::RequestError),
}

/// How many keys are looked at, so that a server which has one of the 16,384 slots is nearly always met.
const TRIED: u32 = 100_000;

/// A request for a key on each server.
fn probe(
    redis: &Redis,
    servers: usize,
    text: &str,
    at: Option<Timestamp>,
) -> Result<Vec<Request>, ProbeError> {
    let quota: Quota = text.parse()?;
    let keyspace = Keyspace::new("limiter-ready", "probe", quota.algorithm())?;
    let mut met = HashSet::with_capacity(servers);
    let keys = (0..TRIED).map(|number| keyspace.key(&number.to_be_bytes()));
    let keys =
        keys.filter(|key| redis.trips.route.part(key).is_some_and(|part| met.insert(part))).take(servers);
    let request = |key| {
        let request = Request::one(Check { key, quota, cost: 1 })?;
        Ok(match at {
            Some(at) => request.at(at),
            None => request,
        })
    };
    keys.map(request).collect()
}

fn config(message: &str) -> BackendError {
    unsent(ErrorKind::Config, "ready", message)
}

#[cfg(test)]
mod tests {
    use super::is_too_old;

    #[test]
    fn versions_before_the_oldest_that_was_run_are_too_old() {
        assert!(["6.0.0", "6.2.14", "5.0.7", "6.255.255"].into_iter().all(is_too_old));
        assert!(!["7.0.15", "7.0.0", "7.4.2", "8.0.1", "10.0.0", "", "next"].into_iter().any(is_too_old));
    }
}
