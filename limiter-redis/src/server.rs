//! One server: scripts by their digest, bounded in number and time, never sent again unless proved not applied.

use crate::error::{self, classify, failed, timed_out, unsent};
use crate::link::{Connection, Link, Number};
use crate::script::Source;
use limiter_core::{BackendError, ErrorKind};
use redis::{Cmd, Pipeline, RedisError, Value};
use std::mem::ManuallyDrop;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// A server and what it may be asked at once.
#[derive(Debug)]
pub(crate) struct Server {
    link: Link,
    in_flight: Semaphore,
}

/// A script with its keys and arguments.
pub(crate) struct Call<'a> {
    pub(crate) operation: &'static str,
    pub(crate) script: &'static Source,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) arguments: Vec<&'a [u8]>,
}

/// When to give up: waiting for a connection, and for the reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) send_by: Option<Instant>,
    /// One for a whole call, also where it is sent twice or elsewhere.
    pub(crate) reply_by: Instant,
    /// Whether it waits for its turn where too many calls are in flight.
    pub(crate) queues: bool,
}

/// An answer, or a refusal by the driver or the server.
enum Outcome {
    Answered(Value),
    Refused(RedisError),
}

impl Patience {
    /// The last instant at which it may leave.
    pub(crate) fn send_by(self) -> Instant {
        self.send_by.map_or(self.reply_by, |by| by.min(self.reply_by))
    }
}

impl Server {
    pub(crate) fn new(link: Link, max_in_flight: usize) -> Self {
        Self { link, in_flight: Semaphore::new(max_in_flight) }
    }

    /// Runs a script. A server that does not know it gets its text, once: it has done nothing then.
    pub(crate) async fn call(
        &self,
        call: &Call<'_>,
        patience: Patience,
        asking: bool,
    ) -> Result<Value, CallError> {
        let sha = call.command("EVALSHA", call.script.sha());
        match self.send(call.operation, &sha, patience, asking).await? {
            Outcome::Answered(value) => return Ok(value),
            Outcome::Refused(error) if error.code() != Some("NOSCRIPT") => {
                return Err(CallError::of(call, error));
            }
            Outcome::Refused(_) => {}
        }
        match self.send(call.operation, &call.command("EVAL", &call.script.text), patience, asking).await? {
            Outcome::Answered(value) => Ok(value),
            Outcome::Refused(error) => Err(CallError::of(call, error)),
        }
    }

    /// Sends a plain command.
    pub(crate) async fn command(
        &self,
        operation: &'static str,
        command: &Cmd,
        patience: Patience,
    ) -> Result<Value, BackendError> {
        match self.send(operation, command, patience, false).await? {
            Outcome::Answered(value) => Ok(value),
            Outcome::Refused(error) => Err(failed(operation, classify(&error), error)),
        }
    }

    async fn send(
        &self,
        operation: &'static str,
        command: &Cmd,
        patience: Patience,
        asking: bool,
    ) -> Result<Outcome, BackendError> {
        error::runtime(operation)?;
        let send_by = patience.send_by();
        let permit = match self.in_flight.try_acquire() {
            Err(_) if patience.queues => timeout_at(send_by, self.in_flight.acquire()).await.ok(),
            permit => permit.ok().map(Ok),
        };
        let Some(Ok(_permit)) = permit else {
            return Err(unsent(ErrorKind::Overloaded, operation, "too many calls are in flight"));
        };
        let mut connection = self.link.connection(operation, send_by).await?;
        if send_by <= Instant::now() {
            return Err(unsent(ErrorKind::Timeout, operation, "the deadline passed before it was sent"));
        }
        let unanswered = Unanswered { link: &self.link, connection: connection.number, late_from: send_by };
        let answer = timeout_at(patience.reply_by, exchange(&mut connection, command, asking))
            .await
            .map_err(|_elapsed| timed_out(operation))?;
        let connection = unanswered.end();
        match answer {
            Ok(value) => {
                self.link.answered(connection);
                Ok(Outcome::Answered(value))
            }
            Err(error) => {
                if classify(&error).is_lost {
                    self.link.lost(connection, error.clone());
                } else {
                    self.link.refused(connection);
                }
                Ok(Outcome::Refused(error))
            }
        }
    }
}

/// What was sent and has no answer yet. Whoever waits may leave before the reply is given up here, which tells as much of
/// the connection: dropped at or after the first deadline, it counts as late.
struct Unanswered<'a> {
    link: &'a Link,
    connection: Number,
    late_from: Instant,
}

impl Unanswered<'_> {
    /// There is an answer.
    fn end(self) -> Number {
        ManuallyDrop::new(self).connection
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if Instant::now() >= self.late_from {
            self.link.late(self.connection);
        }
    }
}

async fn exchange(connection: &mut Connection, command: &Cmd, asking: bool) -> Result<Value, RedisError> {
    let multiplexed = &mut connection.multiplexed;
    let reply = if asking {
        // ASKING holds for the one command behind it on the connection.
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("ASKING").add_command(command.clone());
        multiplexed.send_packed_commands(&pipeline, 1, 1).await?.pop().unwrap_or(Value::Nil)
    } else {
        multiplexed.send_packed_command(command).await?
    };
    match reply {
        Value::ServerError(error) => Err(error.into()),
        reply => Ok(reply),
    }
}

impl Call<'_> {
    fn command(&self, name: &str, script: &str) -> Cmd {
        let bytes = self.keys.iter().map(Vec::len).sum::<usize>()
            + self.arguments.iter().map(|argument| argument.len()).sum::<usize>();
        let mut command = Cmd::with_capacity(3 + self.keys.len() + self.arguments.len(), 64 + bytes);
        command.arg(name).arg(script).arg(self.keys.len());
        self.keys.iter().for_each(|key| {
            command.arg(&key[..]);
        });
        self.arguments.iter().for_each(|argument| {
            command.arg(*argument);
        });
        command
    }
}

/// Why a script gave no answer, and what a cluster says to do about it.
#[derive(Debug)]
pub(crate) struct CallError {
    pub(crate) error: BackendError,
    pub(crate) advice: Option<Advice>,
}

/// What a cluster says of a slot that is elsewhere. Nothing was done, so that the call may go again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// The slot is there.
    Moved(String),
    /// For this once; the slot is on its way.
    Ask(String),
    /// The slot's keys are partly there and partly here.
    TryAgain,
}

impl CallError {
    fn of(call: &Call<'_>, error: RedisError) -> Self {
        let address = error.redirect_node().map(|(address, _slot)| address.to_owned());
        let advice = match error.code() {
            Some("MOVED") => address.map(Advice::Moved),
            Some("ASK") => address.map(Advice::Ask),
            Some("TRYAGAIN") => Some(Advice::TryAgain),
            _ => None,
        };
        Self { error: failed(call.operation, classify(&error), error), advice }
    }
}

impl From<BackendError> for CallError {
    fn from(error: BackendError) -> Self {
        Self { error, advice: None }
    }
}
