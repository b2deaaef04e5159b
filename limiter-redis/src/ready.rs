//! Whether a server can be used as it is, in words for an operator.

use crate::backend::Inner;
use crate::error::unsent;
use crate::route::Route;
use crate::server::Server;
use limiter_core::{BackendError, Check, Effect, ErrorKind, Keyspace, NameError, Quota, QuotaError, Request};
use redis::Value;

/// The oldest version whose scripts may write after reading the clock, and that keeps a time to live over a `SET`.
const OLDEST: (u32, u32) = (6, 0);

pub(crate) async fn check(inner: &Inner) -> Result<(), BackendError> {
    match &inner.route {
        Route::One(server) => check_server(inner, server).await?,
        Route::Cluster(cluster) => {
            for server in cluster.servers("ready", inner.patience(None)).await? {
                check_server(inner, &server).await?;
            }
        }
    }
    try_out(inner).await
}

async fn check_server(inner: &Inner, server: &Server) -> Result<(), BackendError> {
    let info = match server.command("ready", &redis::cmd("INFO"), inner.patience(None)).await {
        Ok(info) => text_of(info),
        // Whoever may not ask is not told; what the scripts need is tried out.
        Err(error) if error.kind() == ErrorKind::Config && error.effect() == Effect::NotApplied => {
            return refused_for_good(error);
        }
        Err(error) => return Err(error),
    };
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let version = field("redis_version").unwrap_or_default();
    if parsed(version).is_some_and(|version| version < OLDEST) {
        let (major, minor) = OLDEST;
        return Err(config(&format!(
            "Redis {version} is older than {major}.{minor}, which the scripts need"
        )));
    }
    let (policy, most) =
        (field("maxmemory_policy").unwrap_or("noeviction"), field("maxmemory").unwrap_or("0"));
    if !inner.allow_eviction && policy != "noeviction" && most != "0" {
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
    if error.to_string().contains("NOPERM") { Ok(()) } else { Err(error) }
}

fn text_of(info: Value) -> String {
    match info {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
        _ => String::new(),
    }
}

fn parsed(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Does once what every decision does, with every command that the scripts use, on keys that expire soon.
async fn try_out(inner: &Inner) -> Result<(), BackendError> {
    for text in [
        "1000/10s",
        "1000/10s fixed-window",
        "1000/10s sliding-log",
        "1000/10s sliding-log",
        "1000/10s sliding-counter",
    ] {
        let request = probe(text).map_err(|error| config(&error.to_string()))?;
        inner.take(&request).await?;
    }
    Ok(())
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

fn probe(text: &str) -> Result<Request, ProbeError> {
    let quota: Quota = text.parse()?;
    let key = Keyspace::new("limiter-ready", "probe", quota.algorithm())?.key(b"");
    Ok(Request::one(Check { key, quota, cost: 1 })?)
}

fn config(message: &str) -> BackendError {
    unsent(ErrorKind::Config, "ready", message)
}
