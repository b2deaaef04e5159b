//! Requests over several slots of a cluster, which no script can decide in one step: core takes them key by key.

use crate::backend::Inner;
use crate::batch::Answer;
use crate::error::NAME;
use crate::route::{Slot, text};
use crate::script::GIVE_BACK;
use crate::server::Call;
use limiter_core::take_and_give_back::KeyByKey;
use limiter_core::{BackendError, Check, Request, Timestamp};
use std::sync::Arc;

/// The keys of such a request, one by one.
pub(crate) struct Keys(pub(crate) Arc<Inner>);

impl KeyByKey for Keys {
    type Answer = Answer;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn look(&self, request: &Request) -> Result<Answer, BackendError> {
        self.0.look(request).await
    }

    async fn take(&self, request: &Request) -> Result<Answer, BackendError> {
        self.0.take(request).await
    }

    async fn give_back(&self, check: &Check, at: Option<Timestamp>, taken: &Answer) {
        let gift = self.0.gift(check, at, taken);
        let call = Call {
            operation: "give back",
            script: &GIVE_BACK,
            keys: vec![text(&check.key)],
            arguments: vec![&gift],
        };
        let patience = self.0.patience(None);
        let _stays_taken = self.0.route.call(Slot::of(&check.key), &call, patience).await;
    }
}
