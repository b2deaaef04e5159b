//! The breaker of one part of a store: what it counts, and when it changes.

use super::{BreakerConfig, BreakerState, has_runtime};
use crate::error::{BackendError, Effect, ErrorKind};
use crate::layer::Answer;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// One part's breaker. A call on a closed one reads a flag and adds to a count; only failures take the lock.
pub(super) struct Part {
    number: u32,
    config: BreakerConfig,
    is_closed: AtomicBool,
    /// Calls that were answered while it was closed, ...
    answered: AtomicU64,
    /// ... and failures since the last of them.
    in_a_row: AtomicU32,
    /// Failures that were ever counted.
    failures: AtomicU64,
    watch: Mutex<Watch>,
}

struct Watch {
    phase: Phase,
    /// Which recovery it is: what was let through in an earlier one says nothing about this.
    recovery: u64,
    opened: u64,
    window: Window,
    /// The last failures that were counted, and how many had been by then. What was under way then and is told a clone
    /// has met the same failure.
    counted: [Option<(BackendError, u64)>; REMEMBERED],
    next: usize,
    jitter: fastrand::Rng,
    /// Probes since it was closed, when the last one left, and whether a task sends them.
    attempts: u32,
    last_probe: Option<Instant>,
    is_probing: bool,
    /// Whether the last probe is for the next caller to send.
    is_offered: bool,
    /// Whether the last failure was a wrong set-up, and when one was last reported.
    is_misconfigured: bool,
    reported: Option<Instant>,
}

enum Phase {
    Closed,
    Open {
        refusal: BackendError,
        next_probe: Instant,
    },
    /// So many calls may go side by side, and one more where none has entered for long.
    Recovering {
        refusal: BackendError,
        room: u32,
        under_way: u32,
        last_entered: Instant,
    },
}

/// The last failures, as many as open it at most, and what they struck.
#[derive(Default)]
struct Window {
    /// Of every failure, or every so many where those are too many to keep.
    marks: VecDeque<Mark>,
    failures: u64,
    /// Calls that were ever struck.
    struck: u64,
}

/// What there was when a failure came.
struct Mark {
    at: Instant,
    answered: u64,
    struck: u64,
}

/// How a call was let through.
#[derive(Clone, Copy)]
pub(super) enum Admission {
    /// After so many failures.
    Free(u64),
    /// As one of few, in this recovery.
    Trial(u64),
}

/// What a call says about the store.
#[derive(Clone, Copy)]
pub(super) enum Outcome<'a> {
    Answered,
    Failed(&'a BackendError),
    Nothing,
}

/// No more marks are kept, so that memory is bounded.
const MARKS: u32 = 256;

/// How many failures are remembered, to tell their clones.
const REMEMBERED: usize = 8;

/// So many calls side by side are as good as any number.
const RECOVERED: u32 = 32;

/// Between two reports of a wrong set-up.
const REPORTS: Duration = Duration::from_secs(60);

/// What no interval is longer than, as it is added to an instant.
const AGES: Duration = Duration::from_secs(365 * 24 * 3_600);

/// How many times as seldom a wrong set-up is probed for, which somebody has to mend.
const SLOWER: u32 = 5;

impl<'a> Outcome<'a> {
    pub(super) fn of(answer: &'a Answer) -> Self {
        match answer {
            Ok(_) => Self::Answered,
            Err(error) if error.is_outage() => Self::Failed(error),
            // What a caller without a runtime is told is no fault of the store's.
            Err(error) if error.kind() == ErrorKind::Config && has_runtime() => Self::Failed(error),
            // The store was reached, and had its reasons.
            Err(error) if matches!(error.kind(), ErrorKind::Contention | ErrorKind::Corrupt) => {
                Self::Answered
            }
            Err(_) => Self::Nothing,
        }
    }
}

impl Part {
    pub(super) fn new(number: u32, config: BreakerConfig) -> Self {
        let seed = config.seed.map_or_else(|| fastrand::u64(..), |seed| seed ^ u64::from(number));
        Self {
            number,
            config,
            is_closed: AtomicBool::new(true),
            answered: AtomicU64::new(0),
            in_a_row: AtomicU32::new(0),
            failures: AtomicU64::new(0),
            watch: Mutex::new(Watch {
                phase: Phase::Closed,
                recovery: 0,
                opened: 0,
                window: Window::default(),
                counted: [const { None }; REMEMBERED],
                next: 0,
                jitter: fastrand::Rng::with_seed(seed),
                attempts: 0,
                last_probe: None,
                is_probing: false,
                is_offered: false,
                is_misconfigured: false,
                reported: None,
            }),
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.watch.lock().phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::Recovering { .. } => BreakerState::Recovering,
        }
    }

    /// Why nothing that is not a call goes through now.
    pub(super) fn is_open(&self) -> Option<BackendError> {
        match &self.watch.lock().phase {
            Phase::Open { refusal, .. } => Some(refusal.clone()),
            Phase::Closed | Phase::Recovering { .. } => None,
        }
    }

    pub(super) fn opened(&self) -> u64 {
        self.watch.lock().opened
    }

    /// Why a call would not be let through now. One whom a probe is offered is to [`enter`](Self::enter).
    #[inline]
    pub(super) fn refusal(&self) -> Option<BackendError> {
        if self.is_closed.load(Ordering::Acquire) {
            return None;
        }
        let mut watch = self.watch.lock();
        if watch.offers_probe(&self.config) {
            return None;
        }
        match &watch.phase {
            Phase::Recovering { .. } if watch.has_room(&self.config) => None,
            Phase::Open { refusal, .. } | Phase::Recovering { refusal, .. } => Some(refusal.clone()),
            Phase::Closed => None,
        }
    }

    /// Lets a call through, or says why not.
    #[inline]
    pub(super) fn enter(&self) -> Result<Admission, BackendError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Ok(self.free());
        }
        let mut watch = self.watch.lock();
        watch.offers_probe(&self.config);
        if std::mem::take(&mut watch.is_offered) {
            watch.recover();
        }
        let (recovery, has_room) = (watch.recovery, watch.has_room(&self.config));
        match &mut watch.phase {
            Phase::Closed => Ok(self.free()),
            Phase::Recovering { under_way, last_entered, .. } if has_room => {
                *under_way += 1;
                *last_entered = Instant::now();
                Ok(Admission::Trial(recovery))
            }
            Phase::Open { refusal, .. } | Phase::Recovering { refusal, .. } => Err(refusal.clone()),
        }
    }

    #[inline]
    fn free(&self) -> Admission {
        Admission::Free(self.failures.load(Ordering::Relaxed))
    }

    /// What became of a call that was let through.
    #[inline]
    pub(super) fn leave(&self, admission: Admission, outcome: Outcome<'_>, store: &'static str) {
        match (admission, outcome) {
            (Admission::Free(_), Outcome::Answered) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                // Read first: a count that all cores write is one that they fight over.
                if self.in_a_row.load(Ordering::Relaxed) > 0 {
                    self.in_a_row.store(0, Ordering::Relaxed);
                }
            }
            (Admission::Free(_), Outcome::Nothing) => {}
            (Admission::Free(after), Outcome::Failed(error)) => self.failed(error, after, store),
            (Admission::Trial(recovery), outcome) => self.tried(recovery, outcome, store),
        }
    }

    #[cold]
    fn failed(&self, error: &BackendError, after: u64, store: &'static str) {
        let now = Instant::now();
        let mut watch = self.watch.lock();
        let is_to_be_reported = watch.is_to_be_reported(error, now);
        // What was under way when it opened says no more than what opened it.
        let opens = matches!(watch.phase, Phase::Closed) && self.count(&mut watch, error, after, now);
        if opens {
            self.is_closed.store(false, Ordering::Release);
            watch.opened += 1;
            watch.open(error, store, &self.config, now);
        }
        // Whoever hears of it may ask how the breaker is.
        drop(watch);
        if is_to_be_reported {
            self.report(error, store);
        }
        if opens {
            tracing::warn!(store, part = self.number, reason = %error, "the breaker has opened");
        }
    }

    /// A wrong set-up is not to look like an outage.
    fn report(&self, error: &BackendError, store: &'static str) {
        tracing::error!(store, part = self.number, reason = %error, "the store is set up wrong");
    }

    /// Counts a failure of a call that came after so many others; whether it is one too many.
    fn count(&self, watch: &mut Watch, error: &BackendError, after: u64, now: Instant) -> bool {
        let (config, answered) = (&self.config, self.answered.load(Ordering::Relaxed));
        let window = &mut watch.window;
        let mark = Mark { at: now, answered, struck: window.struck };
        window.struck += 1;
        let failures = self.failures.load(Ordering::Relaxed) + 1;
        match watch.counted.iter_mut().flatten().find(|(known, _)| known.is_same_failure(error)) {
            Some((_, count)) if after < *count => return false,
            // Who comes later is told again.
            Some((_, count)) => *count = failures,
            None => {
                watch.counted[watch.next % REMEMBERED] = Some((error.clone(), failures));
                watch.next += 1;
            }
        }
        self.failures.store(failures, Ordering::Relaxed);
        let in_a_row = self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        in_a_row >= config.failures_in_a_row.get() || window.is_too_much(mark, answered, config)
    }

    #[cold]
    fn tried(&self, recovery: u64, outcome: Outcome<'_>, store: &'static str) {
        let mut watch = self.watch.lock();
        if watch.recovery != recovery {
            return;
        }
        let Phase::Recovering { room, under_way, .. } = &mut watch.phase else { return };
        *under_way -= 1;
        match outcome {
            Outcome::Nothing => {}
            Outcome::Answered if *room < RECOVERED => *room += 1,
            Outcome::Answered => {
                self.close(&mut watch);
                drop(watch);
                tracing::info!(store, part = self.number, "the breaker has closed");
            }
            Outcome::Failed(error) => {
                let now = Instant::now();
                let is_to_be_reported = watch.is_to_be_reported(error, now);
                watch.open(error, store, &self.config, now);
                drop(watch);
                if is_to_be_reported {
                    self.report(error, store);
                }
            }
        }
    }

    /// The keys that it was opened for are elsewhere now.
    pub(super) fn left_alone(&self, store: &'static str) {
        self.close(&mut self.watch.lock());
        tracing::info!(store, part = self.number, "the breaker has closed: its keys are elsewhere");
    }

    fn close(&self, watch: &mut Watch) {
        watch.close();
        self.in_a_row.store(0, Ordering::Relaxed);
        self.is_closed.store(true, Ordering::Release);
    }

    /// Makes the caller the one who sends probes, where there is none and some are needed.
    pub(super) fn start_probing(&self) -> bool {
        let mut watch = self.watch.lock();
        let is_needed = matches!(watch.phase, Phase::Open { .. }) && !watch.is_probing;
        watch.is_probing |= is_needed;
        is_needed
    }

    /// The task that sent probes has ended.
    pub(super) fn stop_probing(&self) {
        self.watch.lock().is_probing = false;
    }

    /// When the next probe is due; `None`: it is not open any more.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        match self.watch.lock().phase {
            Phase::Open { next_probe, .. } => Some(next_probe),
            _ => None,
        }
    }

    /// A probe leaves now; whether one is still needed.
    pub(super) fn probe(&self) -> bool {
        let mut watch = self.watch.lock();
        watch.probe(&self.config, Instant::now());
        matches!(watch.phase, Phase::Open { .. })
    }

    /// What became of a probe.
    pub(super) fn probed(&self, outcome: Outcome<'_>, store: &'static str) {
        let mut watch = self.watch.lock();
        match outcome {
            Outcome::Answered => watch.recover(),
            Outcome::Failed(error) => {
                let now = Instant::now();
                let is_to_be_reported = watch.is_to_be_reported(error, now);
                if matches!(watch.phase, Phase::Open { .. }) {
                    watch.open(error, store, &self.config, now);
                }
                drop(watch);
                if is_to_be_reported {
                    self.report(error, store);
                }
            }
            Outcome::Nothing => {}
        }
    }
}

impl Window {
    /// Takes in one more failure; whether the last ones are too many, and struck too large a share of the calls since the
    /// first of them: what was answered before says nothing about how the store is now.
    fn is_too_much(&mut self, mark: Mark, answered: u64, config: &BreakerConfig) -> bool {
        if config.failing_percent > 100 {
            return false;
        }
        let (now, each) = (mark.at, config.min_failures.get().div_ceil(MARKS));
        let most = config.min_failures.get().div_ceil(each) as usize;
        if self.failures.is_multiple_of(u64::from(each)) {
            self.marks.push_back(mark);
        }
        self.failures += 1;
        let is_over = |mark: &Mark| now.duration_since(mark.at) > config.window;
        while self.marks.len() > most || self.marks.front().is_some_and(is_over) {
            self.marks.pop_front();
        }
        let Some(first) = self.marks.front().filter(|_| self.marks.len() == most) else { return false };
        let struck = self.struck - first.struck;
        let calls = struck.saturating_add(answered.saturating_sub(first.answered));
        struck * 100 >= calls * u64::from(config.failing_percent)
    }
}

impl Watch {
    /// Leaves a probe to the next caller who enters, if one is due that no task sends: none can be made to here, or the one
    /// that should is on a runtime which nobody drives.
    fn offers_probe(&mut self, config: &BreakerConfig) -> bool {
        let Phase::Open { next_probe, .. } = self.phase else { return false };
        let now = Instant::now();
        let due = if self.is_probing || has_runtime() {
            // A probe may be under way for as long as it may take.
            next_probe.checked_add(config.probe_timeout)
        } else {
            Some(next_probe)
        };
        let is_due = due.is_some_and(|due| due <= now);
        if is_due {
            self.probe(config, now);
            self.is_offered = true;
        }
        is_due
    }

    /// Whether one more call may go. Those under way may never come back, as whoever polls them has other things to do: one
    /// more goes where none has entered for as long as one may take.
    fn has_room(&self, config: &BreakerConfig) -> bool {
        match self.phase {
            Phase::Recovering { room, under_way, last_entered, .. } => {
                under_way < room || last_entered.elapsed() >= config.trial_timeout
            }
            _ => false,
        }
    }

    fn open(&mut self, error: &BackendError, store: &'static str, config: &BreakerConfig, now: Instant) {
        self.is_misconfigured = error.kind() == ErrorKind::Config;
        let message = format!("the breaker is open: {}", error.kind());
        let refusal = BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, store, "decide", message)
            .with_source(error.clone());
        let next_probe = self.next_probe(config, now);
        self.phase = Phase::Open { refusal, next_probe };
    }

    /// A probe leaves. Should nothing become of it, the next is due as if it had failed.
    fn probe(&mut self, config: &BreakerConfig, now: Instant) {
        self.last_probe = Some(now);
        self.attempts = self.attempts.saturating_add(1);
        let next = self.next_probe(config, now);
        if let Phase::Open { next_probe, .. } = &mut self.phase {
            *next_probe = next;
        }
    }

    /// An interval after the last, and twice as long after each further one, up to the longest; jittered, and not at the
    /// very moment at which all instances find the store gone.
    fn next_probe(&mut self, config: &BreakerConfig, now: Instant) -> Instant {
        let slower = if self.is_misconfigured { SLOWER } else { 1 };
        let slowed = |interval: Duration| interval.saturating_mul(slower).min(AGES);
        let interval = slowed(config.probe_interval);
        let longest = slowed(config.longest_probe_interval).max(interval);
        let doublings = self.attempts.saturating_sub(1).min(u32::BITS - 1);
        let full = interval.saturating_mul(1 << doublings).min(longest);
        let least = interval.max(full / 2);
        let apart = least + (full - least).mul_f64(self.jitter.f64());
        let earliest = now + (interval / 4).mul_f64(self.jitter.f64());
        self.last_probe.map_or(earliest, |last| earliest.max(last + apart))
    }

    /// The store has answered: one call may go through.
    fn recover(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Closed);
        self.phase = match phase {
            Phase::Open { refusal, .. } => {
                self.recovery += 1;
                Phase::Recovering { refusal, room: 1, under_way: 0, last_entered: Instant::now() }
            }
            other => other,
        };
    }

    fn close(&mut self) {
        self.phase = Phase::Closed;
        self.window = Window::default();
        self.counted = [const { None }; REMEMBERED];
        self.attempts = 0;
        self.is_offered = false;
    }

    /// Whether it is of a wrong set-up, which was not reported lately.
    fn is_to_be_reported(&mut self, error: &BackendError, now: Instant) -> bool {
        let is_due = self.reported.is_none_or(|last| now.duration_since(last) >= REPORTS);
        let is_to_be = error.kind() == ErrorKind::Config && is_due;
        if is_to_be {
            self.reported = Some(now);
        }
        is_to_be
    }
}
