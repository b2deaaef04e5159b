//! Expired rows, deleted in bounded steps.

use crate::backend::Inner;
use crate::error::{malformed, unsent};
use crate::server::{Argument, Call, Patience};
use limiter_core::{BackendError, ErrorKind};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// The pages of each table that a step looks at: some milliseconds of work, during which a request for an expired key
/// waits and no other.
const PAGES: i32 = 128;

/// A step is no decision: however short those are to be, it may take this long, or it would never end where the disk or
/// the machine is slow.
const STEP: Duration = Duration::from_secs(10);

/// A sweep at an interval, for as long as this is not dropped.
#[must_use = "the sweep ends when this is dropped"]
pub struct Sweeping(JoinHandle<()>);

impl Sweeping {
    pub(crate) fn start(inner: Arc<Inner>, every: Duration) -> Result<Self, BackendError> {
        let runtime = Handle::try_current().map_err(|_| {
            unsent(ErrorKind::Config, "sweep", "a tokio runtime is needed, and there is none")
        })?;
        // An interval of zero is none.
        let every = every.max(Duration::from_millis(1));
        Ok(Self(runtime.spawn(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // What went wrong may not the next time; `ready` says what is wrong for good.
                let _deleted = pass(&inner).await;
            }
        })))
    }
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for Sweeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweeping").finish_non_exhaustive()
    }
}

/// Steps until one reaches the end; each is followed by a pause as long as it took.
pub(crate) async fn pass(inner: &Inner) -> Result<u64, BackendError> {
    let mut all = 0_u64;
    loop {
        let began = Instant::now();
        let call = Call {
            operation: "sweep",
            text: Arc::clone(&inner.schema.sweep),
            arguments: vec![Argument::Int(PAGES)],
            may_go_again: false,
        };
        let patience = Patience::until(began + STEP);
        let row = inner.server.row(call, patience).await.map_err(|failure| failure.error)?;
        let deleted: i64 = row.try_get(0).map_err(|_| malformed())?;
        all = all.saturating_add(u64::try_from(deleted).unwrap_or(0));
        if row.try_get(1).map_err(|_| malformed())? {
            return Ok(all);
        }
        sleep(began.elapsed()).await;
    }
}
