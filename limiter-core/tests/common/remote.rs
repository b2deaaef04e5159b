//! A store far away, which decides as it is defined and can be slow, wrong or gone.

#[path = "states.rs"]
mod states;

use async_trait::async_trait;
use limiter_core::{
    Backend, BackendError, Check, Effect, ErrorKind, Figure, Locality, Quota, QuotaError, Request, Shard,
    StorageKey, Verdict,
};
use states::States;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Shared by its clones.
#[derive(Clone, Default)]
pub(crate) struct Remote(Arc<Inner>, Arc<AtomicBool>);

#[derive(Default)]
struct Inner {
    states: Mutex<States>,
    /// How each part is, by number; up unless it is said.
    modes: Mutex<HashMap<u32, Mode>>,
    calls: Mutex<Vec<Call>>,
    may_forget: AtomicBool,
    /// What all are told that are refused.
    refusal: OnceLock<BackendError>,
    /// Nobody knows which key is in which part: all are thought to be in the first.
    is_uncharted: AtomicBool,
}

/// A call of `decide`, when it came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) at: Instant,
    /// Whether it asked where a key stands, and took nothing.
    pub(crate) is_peek: bool,
}

/// How a part of the store is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(dead_code, reason = "not every test that includes this file needs all")]
pub(crate) enum Mode {
    /// It decides, and the answer takes so long.
    Slow(Duration),
    /// It never answers.
    Hung,
    /// It says no, all over the batch.
    Failing(ErrorKind),
    /// It says the same no to all who come, as it knows of an attempt to reach it that failed.
    Refusing,
    /// Peeks are answered, and nothing else.
    ReadOnly,
}

#[allow(dead_code, reason = "not every test that includes this file needs all")]
impl Remote {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// One that is so from the start.
    pub(crate) fn that_is(mode: Mode) -> Self {
        let remote = Self::new();
        remote.becomes(mode);
        remote
    }

    /// One that may lose live states.
    pub(crate) fn that_forgets() -> Self {
        let remote = Self::new();
        remote.0.may_forget.store(true, Ordering::Relaxed);
        remote
    }

    /// Whether it is known which key is in which part.
    pub(crate) fn is_charted(&self, is_charted: bool) {
        self.0.is_uncharted.store(!is_charted, Ordering::Relaxed);
    }

    /// Changes how the first part is.
    pub(crate) fn becomes(&self, mode: Mode) {
        self.part_becomes(0, mode);
    }

    pub(crate) fn part_becomes(&self, part: u32, mode: Mode) {
        self.0.modes.lock().unwrap().insert(part, mode);
    }

    /// Up again, all of it.
    pub(crate) fn is_back(&self) {
        self.0.modes.lock().unwrap().clear();
    }

    /// Another way to the same store, which can be cut by itself.
    pub(crate) fn another_way(&self) -> Self {
        Self(Arc::clone(&self.0), Arc::default())
    }

    /// Whether this way leads nowhere.
    pub(crate) fn is_cut(&self, is_cut: bool) {
        self.1.store(is_cut, Ordering::Relaxed);
    }

    /// Forgets all states, as a failover may.
    pub(crate) fn loses_all(&self) {
        self.0.states.lock().unwrap().clear();
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.0.calls.lock().unwrap().clone()
    }

    pub(crate) fn forget_calls(&self) {
        self.0.calls.lock().unwrap().clear();
    }

    fn answer(&self, request: &Request) -> Verdict {
        self.0.states.lock().unwrap().decide(request.checks(), request.now())
    }

    /// The worst of what the parts are that the batch needs.
    fn mode(&self, batch: &[Request]) -> Option<Mode> {
        if self.1.load(Ordering::Relaxed) {
            return Some(Mode::Failing(ErrorKind::Unavailable));
        }
        let modes = self.0.modes.lock().unwrap();
        let checks = batch.iter().flat_map(Request::checks);
        let mut found: Vec<Mode> = checks.filter_map(|check| modes.get(&part(check)).copied()).collect();
        found.sort_by_key(|mode| match mode {
            Mode::Hung => 0,
            Mode::Failing(_) | Mode::Refusing => 1,
            Mode::ReadOnly => 2,
            Mode::Slow(_) => 3,
        });
        found.first().copied()
    }
}

/// A key that begins with a digit is in that part, any other in the first.
fn part(check: &Check) -> u32 {
    check.key.bytes().first().filter(|byte| byte.is_ascii_digit()).map_or(0, |byte| u32::from(byte - b'0'))
}

#[async_trait]
impl Backend for Remote {
    async fn decide(&self, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        let is_peek = batch.iter().flat_map(Request::checks).all(|check| check.cost == 0);
        self.0.calls.lock().unwrap().push(Call { at: Instant::now(), is_peek });
        let error = |kind| BackendError::new(kind, Effect::NotApplied, "remote", "decide", "as it was told");
        let failed = |kind| vec![Err(error(kind)); batch.len()];
        let decided = || batch.iter().map(|request| Ok(self.answer(request))).collect();
        match self.mode(batch) {
            Some(Mode::Hung) => std::future::pending().await,
            Some(Mode::Failing(kind)) => return failed(kind),
            Some(Mode::Refusing) => {
                tokio::task::yield_now().await;
                let refusal = self.0.refusal.get_or_init(|| error(ErrorKind::Unavailable));
                return vec![Err(refusal.clone()); batch.len()];
            }
            Some(Mode::ReadOnly) if !is_peek => return failed(ErrorKind::Unavailable),
            Some(Mode::Slow(time)) => {
                let answers = decided();
                sleep(time).await;
                return answers;
            }
            Some(Mode::ReadOnly) | None => tokio::task::yield_now().await,
        }
        decided()
    }

    fn decide_now(&self, _request: &Request) -> Option<Result<Verdict, BackendError>> {
        None
    }

    fn shard(&self, request: &Request) -> Shard {
        if self.0.is_uncharted.load(Ordering::Relaxed) {
            return Shard::One(0);
        }
        let mut parts = request.checks().iter().map(part);
        let first = parts.next().unwrap_or(0);
        if parts.all(|part| part == first) { Shard::One(first) } else { Shard::Many }
    }

    fn accepts(&self, _quota: &Quota) -> Result<(), QuotaError> {
        Ok(())
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        if self.0.modes.lock().unwrap().get(&0) == Some(&Mode::Hung) {
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        self.0.states.lock().unwrap().reset(keys);
        Ok(())
    }

    async fn ready(&self) -> Result<(), BackendError> {
        if let Some(Mode::Failing(kind)) = self.0.modes.lock().unwrap().get(&0) {
            return Err(BackendError::new(*kind, Effect::NotApplied, "remote", "ready", "as it was told"));
        }
        if self.0.modes.lock().unwrap().get(&0) == Some(&Mode::Hung) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn locality(&self) -> Locality {
        Locality::Remote
    }

    fn may_forget(&self) -> bool {
        self.0.may_forget.load(Ordering::Relaxed)
    }

    fn name(&self) -> &'static str {
        "remote"
    }

    fn report(&self, _tell: &mut dyn FnMut(Figure)) {}
}
