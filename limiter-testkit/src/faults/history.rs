//! What callers asked and were told, each on one monotonic clock.

mod rules;

use limiter_core::{Decision, Quota};
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was granted.
    Granted,
    /// It was denied.
    Denied,
    /// An error, and it was not recorded.
    NotApplied,
    /// An error, and it may have been recorded.
    Unknown,
}

/// One request: which subjects it wanted, at which cost, and when; us since the history began.
#[derive(Clone, Debug)]
pub struct Call {
    /// The subjects, by their indices, and their costs.
    pub wants: Vec<(usize, u64)>,
    /// When it was asked.
    pub start: u64,
    /// When it was answered.
    pub end: u64,
    /// What the answer was.
    pub outcome: Outcome,
    /// What it said of each subject; none for an error.
    pub hints: Vec<Hint>,
}

/// What an answer said of one of its subjects, us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Whether this one had allowed it.
    pub allowed: bool,
    /// The wait for its turn.
    pub delay: u64,
    /// The wait after which it would be allowed; `None` where no wait helps.
    pub retry_after: Option<u64>,
}

impl From<&Decision> for Hint {
    fn from(decision: &Decision) -> Self {
        let Decision { allowed, delay, retry_after, .. } = *decision;
        Self { allowed, delay: micros(delay), retry_after: retry_after.map(micros) }
    }
}

/// A key, as the rules see it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its quota.
    pub quota: Quota,
    /// Its permits do not come back while the test runs, so that its charges can be counted at the end.
    pub is_counted: bool,
    /// It is asked for with these only, at one cost, in one step.
    pub group: Option<usize>,
    /// It is asked for with keys that the store cannot decide in one step with it: what was taken may have had to be given back.
    pub is_crossing: bool,
}

/// The clock of a history: the machine's, which all its processes share.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The machine's monotonic clock at the start, us.
    pub start: u64,
    /// The wall clock at the start, us since the epoch.
    pub wall: u64,
}

/// A history that has ended.
#[derive(Debug)]
pub struct History {
    /// Its clock.
    pub clock: Clock,
    /// The keys.
    pub subjects: Vec<Subject>,
    /// The requests.
    pub calls: Vec<Call>,
    /// What the store has lost.
    pub losses: Vec<Loss>,
}

/// The store lost what it held, some time between these two.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Not before.
    pub start: u64,
    /// Not after.
    pub end: u64,
    /// What was lost.
    pub kind: LossKind,
    /// Whose state it was; `None`: everybody's.
    pub subjects: Option<Vec<usize>>,
}

/// What a store lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossKind {
    /// All, for certain.
    All,
    /// What had not been copied, if anything; and until the end two servers may each have answered some of the callers.
    Fork,
}

impl Clock {
    /// A history that begins now.
    ///
    /// # Panics
    /// The wall clock stands before 1970.
    #[must_use]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        Self { start: monotonic(), wall: micros(wall) }
    }

    /// Microseconds since it began.
    #[must_use]
    pub fn now(&self) -> u64 {
        monotonic() - self.start
    }
}

/// That of Rust's `Instant`, which does not tell its number.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000).expect("a time after the machine's start")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("an instant of this century")
}

impl History {
    /// How many calls had this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.calls.iter().filter(|call| call.outcome == outcome).count()
    }

    /// How many were told what.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} granted, {} denied, {} not applied, {} unknown, the slowest {:?}",
            self.count(Outcome::Granted),
            self.count(Outcome::Denied),
            self.count(Outcome::NotApplied),
            self.count(Outcome::Unknown),
            self.slowest(),
        )
    }

    /// How long the slowest call took.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.calls.iter().map(|call| call.end - call.start).max().unwrap_or(0))
    }
}

impl Call {
    fn cost(&self, subject: usize) -> Option<u64> {
        self.wants.iter().find(|(i, _)| *i == subject).map(|(_, cost)| *cost)
    }

    fn may_have_taken(&self) -> bool {
        matches!(self.outcome, Outcome::Granted | Outcome::Unknown)
    }
}
