//! The in-process store as if it were far away.

use async_trait::async_trait;
use limiter_core::{
    Backend, BackendError, Figure, Locality, Memory, Quota, QuotaError, Request, Shard, StorageKey, Verdict,
};
use tokio::task::yield_now;

/// Answers only when asked to wait, and lets others run before and after it decides.
pub(crate) struct Distant(pub(crate) Memory);

#[async_trait]
impl Backend for Distant {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        yield_now().await;
        let answers = self.0.decide(batch).await;
        yield_now().await;
        answers
    }

    fn decide_now(&self, _request: &Request) -> Option<Result<Verdict, BackendError>> {
        None
    }

    fn shard(&self, request: &Request) -> Shard {
        self.0.shard(request)
    }

    fn accepts(&self, quota: &Quota) -> Result<(), QuotaError> {
        self.0.accepts(quota)
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        self.0.reset(keys).await
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.0.ready().await
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    fn may_forget(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "distant"
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        self.0.report(tell);
    }
}
