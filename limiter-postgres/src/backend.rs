use crate::batch::{Batch, Buckets, Decided, MAX_CHECKS, MAX_REQUESTS, Many, One, Packed, Taken};
use crate::builder::{ConfigError, Durability, PostgresBuilder};
use crate::error::{NAME, malformed, unanswered, unsent};
use crate::keys::{Key, Keys};
use crate::schema::Schema;
use crate::server::{Argument, Call, Failure, Patience, Server};
use crate::{ready, retry, sweep};
use async_trait::async_trait;
use limiter_core::{
    Backend, BackendError, ErrorKind, Figure, Locality, Quota, QuotaError, Request, Shard, StorageKey,
    Verdict, metric,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Row;

/// Limits in PostgreSQL. Clones share one.
///
/// # Atomicity
/// One statement decides a batch, in one transaction: each request in one step, all or nothing. It locks all rows that it
/// may write in key order, and only then reads the clock and the states: no update is lost, and there are no deadlocks.
///
/// # Time
/// The server's clock, as it stands when the rows are locked.
///
/// # Waiting
/// A trip ends before the first deadline of its requests; where nothing is recorded by then, those who have more time than
/// was spent go again.
///
/// A row that another transaction holds stops its batch for a third of the time that is left. Then the server is asked
/// which rows are held. The requests of all others go again in one trip; those of held rows go behind them, by
/// themselves, and wait for most of the time that is left, as many at a time as half of the connections. Only what is
/// stuck fails, as [`ErrorKind::Contention`]. But a row that another transaction has made and not committed is not seen
/// before it is waited for: beside one, all requests of its batch go by themselves, and may find no time left.
///
/// # Errors
/// `NotApplied` where the server answered with an error, which rolls back, or nothing was sent; `Unknown` where a reply
/// did not come or was cut. Nothing that may have been recorded is sent again.
///
/// # Cancel safety
/// A dropped request may be recorded, once; its trip ends in a task of its own, and no other caller notices.
#[derive(Clone)]
pub struct Postgres {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) server: Server,
    pub(crate) schema: Schema,
    pub(crate) durability: Durability,
    /// Us that a state is kept once it is reset, and at the least where time is virtual.
    pub(crate) grace: i64,
    pub(crate) horizon: i64,
    /// Rows found that held no state.
    pub(crate) corrupt: AtomicU64,
}

/// Applying the schema may wait for others who do, which its script ends a little sooner.
const MIGRATE: Duration = Duration::from_secs(60);

impl Postgres {
    /// The store at a URL; see [`PostgresBuilder`] for its forms. Connects with the first request.
    ///
    /// # Errors
    /// A URL that is not understood.
    pub fn connect(url: impl Into<String>) -> Result<Self, ConfigError> {
        Self::builder(url).build()
    }

    /// The store at a URL, with settings.
    pub fn builder(url: impl Into<String>) -> PostgresBuilder {
        PostgresBuilder::url(url)
    }

    /// The store behind a pool that is ready, with settings. Its connections' own settings are left as they are.
    pub fn from_pool(pool: deadpool_postgres::Pool) -> PostgresBuilder {
        PostgresBuilder::pool(pool)
    }

    /// Makes the tables and functions, or brings them up to date. Safe to repeat, and for many instances at once.
    ///
    /// # Errors
    /// As of any statement; what was there is as it was. [`ErrorKind::Config`]: no permission, or a newer version.
    pub async fn migrate(&self) -> Result<(), BackendError> {
        self.inner.server.execute("migrate", &self.inner.schema.script, MIGRATE).await
    }

    /// What [`migrate`](Self::migrate) runs, for those who apply their schemas by other means.
    #[must_use]
    pub fn migration(&self) -> &str {
        &self.inner.schema.script
    }

    /// How many rows were found since this store was built that hold no state of ours: numbers out of range, a log without
    /// its entries. Each counts as absent, and the next admission on its key writes it anew.
    #[must_use]
    pub fn corrupt_states(&self) -> u64 {
        self.inner.corrupt.load(Ordering::Relaxed)
    }

    /// Deletes expired rows, one pass in bounded steps that wait for nobody; how many.
    ///
    /// # Errors
    /// As of any statement; what was deleted stays so.
    pub async fn sweep(&self) -> Result<u64, BackendError> {
        sweep::pass(&self.inner).await
    }

    /// Sweeps at this interval, in a task that ends when what is returned is dropped.
    ///
    /// # Errors
    /// There is no tokio runtime.
    pub fn sweep_every(&self, interval: Duration) -> Result<sweep::Sweeping, BackendError> {
        sweep::Sweeping::start(Arc::clone(&self.inner), interval)
    }
}

impl Inner {
    /// One trip, and more where it was stopped by a lock.
    async fn trip(&self, requests: &[&Request]) -> Vec<Result<Verdict, BackendError>> {
        let patience = self.server.patience();
        let mut answers = self.attempt(requests, patience, true).await;
        retry::where_stopped(self, requests, patience, &mut answers).await;
        answers.into_iter().map(|answer| answer.map_err(|failure| failure.error)).collect()
    }

    /// One trip, which the first deadline ends; those who have more time left than it took go once more.
    pub(crate) async fn attempt(
        &self,
        requests: &[&Request],
        patience: Patience,
        may_go_again: bool,
    ) -> Vec<Result<Verdict, Failure>> {
        let mut answers: Vec<_> = requests.iter().map(|_| Err(unanswered().into())).collect();
        let mut places: Vec<usize> = (0..requests.len()).collect();
        loop {
            let trip = places.iter().map(|place| requests[*place]).collect();
            let failure = match self.ask(trip, patience, may_go_again).await {
                Ok(verdicts) => {
                    for (place, verdict) in places.into_iter().zip(verdicts) {
                        answers[place] = verdict.map_err(Failure::from);
                    }
                    return answers;
                }
                Err(failure) => failure,
            };
            places.iter().for_each(|place| answers[*place] = Err(failure.clone()));
            let (waiting, now) = (places.len(), Instant::now());
            places.retain(|place| patience.of(requests[*place]) > now + failure.spent);
            // Where no deadline was the cause, nobody is left behind by it.
            if !failure.is_late() || places.is_empty() || places.len() == waiting {
                return answers;
            }
        }
    }

    async fn ask(
        &self,
        requests: Vec<&Request>,
        patience: Patience,
        may_go_again: bool,
    ) -> Result<Vec<Result<Verdict, BackendError>>, Failure> {
        let patience = patience.of_all(&requests);
        let (batch, packed) = Batch::pack(requests)?;
        let takes = matches!(packed, Packed::Take(..));
        let (text, arguments) = self.arguments(packed);
        let text = Arc::clone(text);
        let row =
            self.server.row(Call { operation: "decide", text, arguments, may_go_again }, patience).await?;
        let decided = if takes {
            batch.decided_by_taking(taken(&row).map_err(|_| malformed())?)
        } else {
            batch.decided(row.try_get(0).map_err(|_| malformed())?)
        };
        let Decided { verdicts, corrupt } = decided.ok_or_else(malformed)?;
        self.corrupt.fetch_add(corrupt, Ordering::Relaxed);
        Ok(verdicts)
    }

    /// The statement that decides what is packed so, and its arguments.
    fn arguments(&self, packed: Packed) -> (&Arc<str>, Vec<Argument>) {
        let [grace, horizon] = [self.grace, self.horizon].map(Argument::BigInt);
        match packed {
            Packed::One(One { key, at, count, cost, quota }) => {
                let numbers = [at, count, cost].into_iter().chain(quota).map(Argument::BigInt);
                let arguments = [grace, horizon, Argument::Key(Key(key))].into_iter().chain(numbers);
                (&self.schema.one, arguments.collect())
            }
            Packed::Take(Buckets { ats, steps, rooms }, Many { keys, quotas, requests, .. }) => {
                let arguments = vec![
                    Argument::Keys(Keys(keys)),
                    Argument::BigInts(ats),
                    Argument::BigInts(steps),
                    Argument::BigInts(rooms),
                    grace,
                    horizon,
                    Argument::BigInts(quotas),
                    Argument::BigInts(requests),
                ];
                (&self.schema.take, arguments)
            }
            Packed::Decide(Many { keys, locked, quotas, requests }) => {
                let arguments = vec![
                    grace,
                    horizon,
                    Argument::Keys(Keys(keys)),
                    Argument::Int(locked),
                    Argument::BigInts(quotas),
                    Argument::BigInts(requests),
                ];
                (&self.schema.decide, arguments)
            }
        }
    }
}

fn taken(row: &Row) -> Result<Taken, tokio_postgres::Error> {
    let numbers = |column| row.try_get::<_, Option<Vec<i64>>>(column).map(Option::unwrap_or_default);
    Ok(Taken { entries: numbers(0)?, full_ats: numbers(1)?, ats: numbers(2)?, others: row.try_get(3)? })
}

#[async_trait]
impl Backend for Postgres {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        let now = Instant::now();
        let is_live = |request: &Request| request.deadline().is_none_or(|deadline| deadline > now);
        let live: Vec<&Request> = batch.iter().filter(|request| is_live(request)).collect();
        let mut answers = Vec::with_capacity(live.len());
        let mut from = 0;
        while from < live.len() {
            let mut checks = 0;
            let fits = |request: &&&Request| {
                checks += request.checks().len();
                checks <= MAX_CHECKS
            };
            let trip = live[from..].iter().take(MAX_REQUESTS).take_while(fits).count().max(1);
            answers.extend(self.inner.trip(&live[from..from + trip]).await);
            from += trip;
        }
        let mut answers = answers.into_iter();
        let late = || unsent(ErrorKind::Timeout, "decide", "the deadline passed before it was sent");
        let answer = |request: &Request| {
            if is_live(request) { answers.next().unwrap_or_else(|| Err(unanswered())) } else { Err(late()) }
        };
        batch.iter().map(answer).collect()
    }

    fn decide_now(&self, _request: &Request) -> Option<Result<Verdict, BackendError>> {
        None
    }

    fn shard(&self, _request: &Request) -> Shard {
        Shard::One(0)
    }

    fn accepts(&self, _quota: &Quota) -> Result<(), QuotaError> {
        Ok(())
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        for keys in keys.chunks(MAX_CHECKS) {
            let call = Call {
                operation: "reset",
                text: Arc::clone(&self.inner.schema.reset),
                arguments: vec![Argument::Keys(Keys(keys.iter().map(StorageKey::to_bytes).collect()))],
                may_go_again: false,
            };
            self.inner
                .server
                .row(call, self.inner.server.patience())
                .await
                .map_err(|failure| failure.error)?;
        }
        Ok(())
    }

    async fn ready(&self) -> Result<(), BackendError> {
        ready::check(&self.inner).await
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    fn may_forget(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn report(&self, tell: &mut dyn FnMut(Figure)) {
        tell(Figure::new(&metric::CORRUPT_STATES, NAME, self.corrupt_states()));
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("pool", &self.inner.server.pool)
            .field("durability", &self.inner.durability)
            .finish_non_exhaustive()
    }
}
