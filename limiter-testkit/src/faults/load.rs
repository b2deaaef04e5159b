//! Callers side by side, over every algorithm, and what becomes of what they are told.

use super::history::{Call, Clock, Hint, History, Loss, LossKind, Outcome, Subject};
use fastrand::Rng;
use limiter_core::{
    Algorithm, Backend, BackendError, Check, Effect, Keyspace, Origin, Placement, Quota, Request, StorageKey,
    Verdict,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Keys of a run, and what is asked of them.
#[derive(Clone, Debug)]
pub struct Plan {
    run: u64,
    /// The keys as the rules see them.
    pub subjects: Vec<Subject>,
    /// The keys.
    pub keys: Vec<StorageKey>,
    limited: Vec<usize>,
    counted: Vec<usize>,
    groups: Vec<Vec<usize>>,
    crossing: Vec<usize>,
}

/// Windows that do not end while a test runs: the epoch's second is that of 2041.
const LONG: Duration = Duration::from_secs(13_000 * 86_400);

/// A quota whose permits do not come back while a test runs, of this limit or of the highest that the algorithm has.
///
/// # Panics
/// The limit is 0.
#[must_use]
pub fn lasting(algorithm: Algorithm, limit: u64) -> Quota {
    let quota = match algorithm {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => {
            Quota::new(1, Duration::from_secs(10_000)).burst(limit.min(100_000))
        }
        Algorithm::FixedWindow => Quota::new(limit, LONG),
        Algorithm::SlidingLog => Quota::new(limit.min(100_000), LONG),
        // Its products are to stay below 2^53.
        Algorithm::SlidingCounter => Quota::new(limit.min(8_000), LONG),
    };
    quota.algorithm(algorithm).build().expect("a quota that is accepted")
}

impl Plan {
    /// Each algorithm with a short window and `copies` times with one that lasts, and two groups of all algorithms, of
    /// which one is used up soon.
    ///
    /// # Panics
    /// Never: its quotas are accepted.
    #[must_use]
    pub fn new(copies: usize) -> Self {
        Self::of_run(fastrand::u64(..), copies)
    }

    /// The same for all who name the same run, as processes do that ask side by side.
    ///
    /// # Panics
    /// Never: its quotas are accepted.
    #[must_use]
    pub fn of_run(run: u64, copies: usize) -> Self {
        let mut plan = Self {
            run,
            subjects: Vec::new(),
            keys: Vec::new(),
            limited: Vec::new(),
            counted: Vec::new(),
            groups: Vec::new(),
            crossing: Vec::new(),
        };
        let key = |algorithm, name: &str| {
            let space = Keyspace::new("faults", "rule", algorithm).expect("short names");
            space.key(format!("{run:x} {name}").as_bytes())
        };
        for algorithm in Algorithm::ALL {
            let short =
                Quota::new(5, Duration::from_millis(100)).algorithm(algorithm).build().expect("a quota");
            let limited = plan.add(key(algorithm, "limited"), short, false, None);
            plan.limited.push(limited);
            for copy in 0..copies {
                let counted = plan.add(
                    key(algorithm, &format!("counted {copy}")),
                    lasting(algorithm, 100_000),
                    true,
                    None,
                );
                plan.counted.push(counted);
            }
        }
        for (group, limit) in [100_000, 60].into_iter().enumerate() {
            let place = Placement::of(format!("{run} {group}").as_bytes());
            let members = Algorithm::ALL.into_iter().map(|algorithm| {
                let key = key(algorithm, &format!("group {group}")).placed(place);
                let limit = if algorithm == Algorithm::SlidingLog { limit } else { 100_000 };
                plan.add(key, lasting(algorithm, limit), true, Some(group))
            });
            let members = members.collect();
            plan.groups.push(members);
        }
        plan
    }

    /// The same for a store that decides each key by itself: its groups are no more than keys that are asked for together.
    #[must_use]
    pub fn key_by_key(mut self) -> Self {
        for subject in &mut self.subjects {
            subject.is_crossing |= subject.group.take().is_some();
        }
        self
    }

    /// And keys that are asked for in pairs, wherever they are.
    ///
    /// # Panics
    /// Never: its quotas are accepted.
    #[must_use]
    pub fn crossing(mut self) -> Self {
        for algorithm in Algorithm::ALL {
            let space = Keyspace::new("faults", "crossing", algorithm).expect("short names");
            let i = self.add(space.key(&self.run.to_be_bytes()), lasting(algorithm, 300), true, None);
            self.subjects[i].is_crossing = true;
            self.crossing.push(i);
        }
        self
    }

    /// All of them, and these keys to be asked for each by itself.
    #[must_use]
    pub fn and_counted(mut self, keys: impl IntoIterator<Item = StorageKey>) -> Self {
        for key in keys {
            let quota = lasting(key.keyspace().algorithm(), 100_000);
            let i = self.add(key, quota, true, None);
            self.counted.push(i);
        }
        self
    }

    /// The subjects of a group.
    #[must_use]
    pub fn group(&self, group: usize) -> &[usize] {
        &self.groups[group]
    }

    fn add(&mut self, key: StorageKey, quota: Quota, is_counted: bool, group: Option<usize>) -> usize {
        self.subjects.push(Subject { quota, is_counted, group, is_crossing: false });
        self.keys.push(key);
        self.keys.len() - 1
    }

    fn request(&self, wants: &[(usize, u64)]) -> Request {
        let check = |(i, cost): &(usize, u64)| Check {
            key: self.keys[*i].clone(),
            quota: self.subjects[*i].quota,
            cost: *cost,
        };
        Request::new(wants.iter().map(check)).expect("checks that make a request")
    }

    fn wants(&self, rng: &mut Rng) -> Vec<(usize, u64)> {
        let kinds = if self.crossing.is_empty() { 6 } else { 8 };
        let cost = rng.u64(0..4);
        match rng.u8(..kinds) {
            0..=1 => vec![(self.limited[rng.usize(..self.limited.len())], cost)],
            2..=3 => vec![(self.counted[rng.usize(..self.counted.len())], cost)],
            4..=5 => self.groups[rng.usize(..self.groups.len())].iter().map(|i| (*i, cost.min(2))).collect(),
            _ => {
                let first = rng.usize(..self.crossing.len());
                let second = (first + rng.usize(1..self.crossing.len())) % self.crossing.len();
                vec![(self.crossing[first], cost), (self.crossing[second], rng.u64(1..4))]
            }
        }
    }

    /// Checks all that callers were told and what the store holds; no call took longer than `most`.
    ///
    /// # Panics
    /// A rule is broken, a call took longer, or too little was asked to tell.
    pub async fn check(&self, history: &History, store: &dyn Backend, most: Duration) {
        let broken = history.broken(&self.charged(store).await);
        assert!(broken.is_empty(), "{broken:#?}");
        for (outcome, least) in [(Outcome::Granted, 300), (Outcome::Denied, 30)] {
            let count = history.count(outcome);
            assert!(count > least, "only {count} of {} were {outcome:?}", history.calls.len());
        }
        assert!(history.slowest() < most, "a call took {:?}", history.slowest());
    }

    async fn answer(&self, store: &dyn Backend, wants: &[(usize, u64)]) -> Verdict {
        let answer = store.decide(&[self.request(wants)]).await.pop();
        answer.expect("one answer").expect("an answer")
    }

    /// What each counted key is charged, groups in one step.
    async fn charged(&self, store: &dyn Backend) -> Vec<Option<u64>> {
        let mut charged = vec![None; self.keys.len()];
        let singles = (0..self.keys.len()).filter(|i| self.subjects[*i].is_counted);
        let singles = singles.filter(|i| self.subjects[*i].group.is_none()).map(|i| vec![i]);
        for together in singles.chain(self.groups.iter().cloned()) {
            let wants: Vec<(usize, u64)> = together.iter().map(|i| (*i, 0)).collect();
            let verdict = self.answer(store, &wants).await;
            for (i, decision) in together.iter().zip(verdict.decisions()) {
                charged[*i] = Some(decision.capacity - decision.remaining);
            }
        }
        charged
    }
}

/// Callers under way.
#[derive(Debug)]
pub struct Load {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    tasks: JoinSet<Vec<Call>>,
    losses: Vec<Loss>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    is_over: AtomicBool,
    pace: Pace,
    answers: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<String>,
}

/// How hard the callers press.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Callers of each stack.
    pub callers: usize,
    /// How long each waits after an answer.
    pub pause: Duration,
    /// That of every other request.
    pub deadline: Option<Duration>,
    /// Whether some calls are of several requests. A limiter's are of one.
    pub batches: bool,
}

/// Neither a flood nor a spin.
const PACE: Pace = Pace { callers: 12, pause: Duration::from_millis(1), deadline: None, batches: true };

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

impl Load {
    /// Starts callers of each stack, of whose requests every other has a deadline.
    #[must_use]
    pub fn start(plan: Plan, stacks: &[Arc<dyn Backend>]) -> Self {
        let pace = Pace { deadline: Some(Duration::from_millis(200)), ..PACE };
        Self::start_with(Clock::start(), plan, stacks, pace)
    }

    /// Starts callers of each stack who wait for as long as the store does: where no error is expected, however busy
    /// the machine.
    #[must_use]
    pub fn start_patient(plan: Plan, stacks: &[Arc<dyn Backend>]) -> Self {
        Self::start_with(Clock::start(), plan, stacks, PACE)
    }

    /// Starts callers of each stack at this pace, on a clock that several processes may share.
    #[must_use]
    pub fn start_with(clock: Clock, plan: Plan, stacks: &[Arc<dyn Backend>], pace: Pace) -> Self {
        let shared = Arc::new(Shared {
            clock,
            is_over: AtomicBool::new(false),
            pace,
            answers: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_error: Mutex::default(),
        });
        let plan = Arc::new(plan);
        let mut tasks = JoinSet::new();
        for stack in stacks {
            for _ in 0..pace.callers {
                tasks.spawn(call_again_and_again(Arc::clone(stack), Arc::clone(&plan), Arc::clone(&shared)));
            }
        }
        Self { plan, shared, tasks, losses: Vec::new() }
    }

    /// The history's clock.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.shared.clock.now()
    }

    /// Answers so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.shared.answers.load(Ordering::Relaxed)
    }

    /// Errors so far, and what was decided without the store.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.shared.errors.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests have got verdicts.
    ///
    /// # Panics
    /// They do not come in time.
    pub async fn answers(&self, more: u64) {
        self.more(&self.shared.answers, more, "answers").await;
    }

    /// Waits until so many more requests have got errors.
    ///
    /// # Panics
    /// They do not come in time.
    pub async fn failures(&self, more: u64) {
        self.more(&self.shared.errors, more, "errors").await;
    }

    async fn more(&self, counter: &AtomicU64, more: u64, what: &str) {
        let wanted = counter.load(Ordering::Relaxed) + more;
        let start = Instant::now();
        while counter.load(Ordering::Relaxed) < wanted {
            assert!(start.elapsed() < PATIENCE, "no {more} more {what}: {}", self.last_error());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The last error and its cause, in words.
    #[must_use]
    pub fn last_error(&self) -> String {
        self.shared.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The store loses what it holds, all or of these subjects, while this is done.
    pub fn loses<T>(&mut self, kind: LossKind, subjects: Option<Vec<usize>>, bend: impl FnOnce() -> T) -> T {
        let start = self.now();
        let done = bend();
        self.losses.push(Loss { start, end: self.now(), kind, subjects });
        done
    }

    /// Ends the callers; what they were told.
    ///
    /// # Panics
    /// A caller did.
    pub async fn end(mut self) -> (Arc<Plan>, History) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let mut calls = Vec::new();
        while let Some(done) = self.tasks.join_next().await {
            calls.append(&mut done.expect("a caller that does not panic"));
        }
        let Self { plan, shared, losses, .. } = self;
        let subjects = plan.subjects.clone();
        (plan, History { clock: shared.clock, subjects, calls, losses })
    }

    /// Ends the callers, and checks all that they were told and what the store holds.
    ///
    /// # Panics
    /// A rule is broken, or too little was asked to tell.
    pub async fn check(self, store: &dyn Backend) -> History {
        let (plan, history) = self.end().await;
        // A ceiling for a busy machine: no call waits without end.
        plan.check(&history, store, Duration::from_secs(5)).await;
        history
    }
}

async fn call_again_and_again(stack: Arc<dyn Backend>, plan: Arc<Plan>, shared: Arc<Shared>) -> Vec<Call> {
    let mut rng = Rng::new();
    let mut calls = Vec::new();
    while !shared.is_over.load(Ordering::Relaxed) {
        let requests = if shared.pace.batches && rng.u8(..4) == 0 { 4 } else { 1 };
        let wants: Vec<_> = (0..requests).map(|_| plan.wants(&mut rng)).collect();
        let deadline = shared.pace.deadline.filter(|_| rng.bool());
        let deadline = deadline.map(|deadline| tokio::time::Instant::now() + deadline);
        let request = |wants: &Vec<(usize, u64)>| match deadline {
            Some(deadline) => plan.request(wants).with_deadline(deadline),
            None => plan.request(wants),
        };
        let batch: Vec<Request> = wants.iter().map(request).collect();
        let start = shared.clock.now();
        let answers = stack.decide(&batch).await;
        let end = shared.clock.now() + 1;
        assert_eq!(answers.len(), batch.len(), "answers to a batch");
        let failed = answers.iter().any(Result::is_err);
        for (wants, answer) in wants.into_iter().zip(answers) {
            let (outcome, hints) = shared.told(answer);
            calls.push(Call { wants, start, end, outcome, hints });
        }
        tokio::time::sleep(if failed { 5 * shared.pace.pause } else { shared.pace.pause }).await;
    }
    calls
}

impl Shared {
    /// What it was, and what it said of the store.
    fn told(&self, answer: Result<Verdict, BackendError>) -> (Outcome, Vec<Hint>) {
        match answer {
            // It says nothing about the store, which may have counted the request all the same.
            Ok(verdict) if verdict.decisions().iter().any(|told| told.origin == Origin::Degraded) => {
                self.failed("decided without the store".to_owned());
                (Outcome::Unknown, Vec::new())
            }
            Ok(verdict) => {
                self.answers.fetch_add(1, Ordering::Relaxed);
                let outcome = if verdict.allowed() { Outcome::Granted } else { Outcome::Denied };
                (outcome, verdict.decisions().iter().map(Hint::from).collect())
            }
            Err(error) => {
                self.failed(format!("{error}: {:?}", std::error::Error::source(&error)));
                let is_unsent = error.effect() == Effect::NotApplied;
                (if is_unsent { Outcome::NotApplied } else { Outcome::Unknown }, Vec::new())
            }
        }
    }

    fn failed(&self, why: String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}
