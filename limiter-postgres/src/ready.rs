//! Whether the database can be used as it is, in words for an operator.

use crate::backend::Inner;
use crate::error::{code, unsent};
use crate::schema::VERSION;
use crate::server::{Call, Failure};
use limiter_core::{BackendError, Check, Effect, ErrorKind, Keyspace, NameError, Quota, QuotaError, Request};
use std::sync::Arc;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

const STATE: &str = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";

pub(crate) async fn check(inner: &Inner) -> Result<(), BackendError> {
    // How the server is by now, and not what it refused callers for.
    inner.server.pool.ask_anew();
    let state = ask(inner, &Arc::from(STATE)).await.map_err(|failure| failure.error)?;
    if state.try_get(0).unwrap_or(false) {
        return Err(unsent(
            ErrorKind::Unavailable,
            "ready",
            "the server is a standby, which takes no writes: connect to its primary",
        ));
    }
    if state.try_get(1).unwrap_or(false) {
        return Err(config("transactions are read-only here: see default_transaction_read_only"));
    }
    let version: Option<i32> = match ask(inner, &inner.schema.version).await {
        Ok(row) => row.try_get(0).unwrap_or(None),
        Err(failure) => return Err(explained(failure)),
    };
    match version {
        Some(VERSION) => {}
        None => return Err(config("the schema is not there in full: call migrate()")),
        Some(version) if version < VERSION => {
            return Err(config(&format!(
                "the schema is of version {version}, below {VERSION}: call migrate()"
            )));
        }
        Some(version) => {
            return Err(config(&format!(
                "the schema is of version {version}, above {VERSION}, which this instance works with: update it"
            )));
        }
    }
    let persistence = ask(inner, &inner.schema.persistence).await.map_err(explained)?;
    if !persistence.try_get(0).unwrap_or(false) {
        return Err(config(&format!(
            "the tables are not as durable as {:?} says: call migrate()",
            inner.durability
        )));
    }
    try_out(inner).await
}

/// What stands against the schema's use.
fn explained(failure: Failure) -> BackendError {
    let error = failure.error;
    if error.kind() != ErrorKind::Config || error.effect() != Effect::NotApplied {
        return error;
    }
    let advice = match code(&error) {
        Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME | &SqlState::UNDEFINED_FUNCTION) => {
            "the schema is not there: call migrate()"
        }
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => "no permission: grant this user the tables and functions",
        _ => return error,
    };
    config(advice).with_source(error)
}

async fn ask(inner: &Inner, text: &Arc<str>) -> Result<Row, Failure> {
    let call = Call { operation: "ready", text: Arc::clone(text), arguments: vec![], may_go_again: false };
    inner.server.row(call, inner.server.patience()).await
}

/// Does what decisions do, in every algorithm, one by one and as a batch, on keys that expire soon.
async fn try_out(inner: &Inner) -> Result<(), BackendError> {
    let texts = ["1000/10s", "1000/10s fixed-window", "1000/10s sliding-log", "1000/10s sliding-counter"];
    let probes: Result<Vec<Request>, ProbeError> = texts.into_iter().map(probe).collect();
    let probes = probes.map_err(|error| config(&error.to_string()))?;
    let probes: Vec<&Request> = probes.iter().collect();
    for trip in probes.chunks(1).chain([&probes[..]]) {
        for answer in inner.attempt(trip, inner.server.patience(), false).await {
            let _verdict = answer.map_err(explained)?;
        }
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
