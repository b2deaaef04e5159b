//! A long log in a store, and core's own beside it.

use super::at;
use limiter_core::algorithm::{Log, SlidingLog, Step};
use limiter_core::{Backend, Check, Quota, Request, StorageKey};

/// A sliding log in a store beside core's own, in virtual time: for logs of so many entries that a store must not read
/// all of them.
///
/// # Example
/// ```
/// use limiter_core::{Algorithm, Keyspace, Memory, Quota};
/// use limiter_testkit::faults::LongLog;
///
/// # async fn fill() -> Result<(), Box<dyn std::error::Error>> {
/// let quota: Quota = "1000/10s sliding-log".parse()?;
/// let key = Keyspace::new("test", "log", Algorithm::SlidingLog)?.key(b"long");
/// let mut log = LongLog::new(Memory::new(), key, quota);
/// assert_eq!(log.ask([1; 900], 1_000).await, 900);
/// assert_eq!(log.ask([101, 100, 1], 1_000).await, 100);
/// log.wait(10_000_000);
/// assert_eq!(log.ask([1_000], 0).await, 1_000);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(fill())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LongLog<B> {
    backend: B,
    key: StorageKey,
    quota: Quota,
    log: Log,
    now: u64,
}

impl<B: Backend> LongLog<B> {
    /// The empty log of this key, which is one of sliding logs, as the quota is.
    #[must_use]
    pub fn new(backend: B, key: StorageKey, quota: Quota) -> Self {
        Self { backend, key, quota, log: Log::default(), now: 0 }
    }

    /// So many us pass.
    pub fn wait(&mut self, micros: u64) {
        self.now += micros;
    }

    /// Asks for these costs in one batch, each `step` us after the one before; how many permits were admitted.
    ///
    /// # Panics
    /// An answer is missing, an error, or not core's; or the key is none of sliding logs.
    pub async fn ask(&mut self, costs: impl IntoIterator<Item = u64>, step: u64) -> u64 {
        let mut asked = Vec::new();
        let mut batch = Vec::new();
        for cost in costs {
            self.wait(step);
            let check = Check { key: self.key.clone(), quota: self.quota, cost };
            batch.push(Request::one(check).expect("a key of sliding logs").at(at(self.now)));
            asked.push((self.now, cost));
        }
        let answers = self.backend.decide(&batch).await;
        assert_eq!(answers.len(), batch.len(), "answers to a batch");
        let mut admitted = 0;
        for (answer, (now, cost)) in answers.into_iter().zip(asked) {
            let verdict = answer.expect("an answer");
            let expected = SlidingLog::step(&mut self.log, &self.quota, cost, at(now));
            assert_eq!(verdict.decisions(), [expected], "{cost} at {now} us");
            admitted += if expected.allowed { cost } else { 0 };
        }
        admitted
    }
}
