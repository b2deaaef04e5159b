//! The task that looks whether a part of the store is back.

use super::Shared;
use super::part::{Outcome, Part};
use crate::backend::Backend;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::layer::Answer;
use crate::request::{Check, Request};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Starts it on this runtime, unless there is one already or none is needed.
pub(super) fn start<B: Backend>(shared: &Arc<Shared<B>>, part: &Arc<Part>, check: &Check, request: &Request) {
    if !part.start_probing() {
        return;
    }
    let probing = Probing(Arc::clone(part));
    let (Ok(runtime), Some(peek)) = (Handle::try_current(), peek(check, request)) else { return };
    drop(runtime.spawn(probe(Arc::downgrade(shared), probing, peek)));
}

/// The question where a key of that part stands.
fn peek(check: &Check, request: &Request) -> Option<Request> {
    let peek = Request::one(Check { cost: 0, ..check.clone() }).ok()?;
    Some(match request.instant() {
        Some(at) => peek.at(at),
        None => peek,
    })
}

/// Dropped with its task, also when its runtime shuts down, it makes room for another.
struct Probing(Arc<Part>);

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.stop_probing();
    }
}

/// Ends when the breaker is not open any more, or is gone.
async fn probe<B: Backend>(shared: Weak<Shared<B>>, probing: Probing, peek: Request) {
    let part = &probing.0;
    while let Some(due) = part.next_probe() {
        sleep_until(due).await;
        let Some(shared) = shared.upgrade() else { return };
        // Where keys are may change, and then there is nothing to ask this part. Whoever still has keys there finds
        // out for himself.
        if !shared.needed(&peek).iter().any(|(number, _)| Arc::ptr_eq(shared.part(*number), part)) {
            part.left_alone(shared.inner.name());
            return;
        }
        if part.probe() {
            shared.probes.fetch_add(1, Ordering::Relaxed);
            let answer = shared.ask(&peek).await;
            part.probed(Outcome::of(&answer), shared.inner.name());
        }
    }
}

impl<B: Backend> Shared<B> {
    async fn ask(&self, peek: &Request) -> Answer {
        let by = Instant::now().checked_add(self.config.probe_timeout);
        let peek = match by {
            Some(by) => peek.clone().with_firm_deadline(by),
            None => peek.clone(),
        };
        let asked = self.inner.decide_one(&peek);
        // There may be no layer below that keeps it.
        let answered = match by {
            Some(by) => timeout_at(by, asked).await.ok(),
            None => Some(asked.await),
        };
        answered.unwrap_or_else(|| {
            let message = "no answer to a probe";
            Err(BackendError::new(
                ErrorKind::Timeout,
                Effect::NotApplied,
                self.inner.name(),
                "probe",
                message,
            ))
        })
    }
}
