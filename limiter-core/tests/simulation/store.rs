//! A store far away that instances share, on a clock of its own, over a network that loses.

use crate::history::{Departure, Event, History, START};
use crate::plan::{Mishap, Mode, Plan};
use crate::states::States;
use async_trait::async_trait;
use fastrand::Rng;
use limiter_core::{
    Backend, BackendError, Effect, ErrorKind, Figure, Locality, Quota, QuotaError, Request, Shard,
    StorageKey, Timestamp, Verdict,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

type Answer = Result<Verdict, BackendError>;

/// How the store itself may be wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Flaw {
    #[default]
    None,
    /// One admission in a hundred leaves no trace.
    ForgetsAdmissions,
    /// When its clock steps back, what it holds counts as never used.
    ForgetsWhenTheClockStepsBack,
}

pub(crate) struct Store {
    plan: Arc<Plan>,
    history: Arc<History>,
    flaw: Flaw,
    inner: Mutex<Inner>,
}

struct Inner {
    states: States,
    random: Rng,
    /// How far its clock is off, in us.
    offset: i64,
    admissions: u64,
    /// Replies that never come.
    silent: Vec<oneshot::Sender<Vec<Verdict>>>,
}

/// One instance's way to the store.
pub(crate) struct Link {
    pub(crate) instance: usize,
    pub(crate) store: Arc<Store>,
}

/// What becomes of a trip.
struct Trip {
    arrives: Instant,
    is_lost: bool,
    back: Duration,
    reply: Reply,
}

#[derive(Clone, Copy)]
enum Reply {
    Comes,
    /// It never does, ...
    Silence,
    /// ... or the connection breaks.
    Reset,
}

impl Store {
    pub(crate) fn new(plan: Arc<Plan>, history: Arc<History>, flaw: Flaw) -> Self {
        let random = Rng::with_seed(!plan.seed);
        let (states, silent) = (States::default(), Vec::new());
        let inner = Mutex::new(Inner { states, random, offset: 0, admissions: 0, silent });
        Self { plan, history, flaw, inner }
    }

    pub(crate) fn suffers(&self, mishap: Mishap) {
        let mut inner = self.inner.lock().unwrap();
        match mishap {
            Mishap::Restarts => {
                inner.states.clear();
                self.history.add(Event::Restarted);
            }
            Mishap::Steps(by) => {
                inner.offset += by;
                if by < 0 && self.flaw == Flaw::ForgetsWhenTheClockStepsBack {
                    inner.states.clear();
                }
                self.history.add(Event::Stepped(by));
            }
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// In ms of the run.
    fn now(&self) -> u64 {
        self.history.now() / 1_000
    }

    fn is_calm(&self) -> bool {
        self.now() >= self.plan.calm
    }

    /// How long a new connection takes, if one has to be made.
    fn connects(&self) -> Option<Duration> {
        let mut inner = self.inner.lock().unwrap();
        let network = &self.plan.network;
        let is_needed = !self.is_calm() && inner.random.u32(..1_000) < network.connects;
        is_needed.then(|| Duration::from_millis(inner.random.u64(1..120)))
    }

    /// What becomes of what an instance sends now; an error: nothing was sent.
    fn trip(&self, instance: usize, operation: &'static str) -> Result<Trip, BackendError> {
        let mode = self.plan.mode(instance, self.now());
        if let Some((Mode::Refused(kind), _)) = mode {
            return Err(BackendError::new(kind, Effect::NotApplied, NAME, operation, "refused"));
        }
        let mut inner = self.inner.lock().unwrap();
        let network = &self.plan.network;
        let is_calm = self.is_calm();
        let mut happens = |often: u32| !is_calm && inner.random.u32(..1_000) < often;
        let (is_lost, loses_reply, resets) =
            (happens(network.lost_requests), happens(network.lost_replies), happens(network.resets));
        let hung_is_lost = inner.random.bool();
        let mut way = || Duration::from_millis(inner.random.u64(..=network.longest));
        let (there, back) = (way(), way());
        let (arrives, is_lost) = match mode {
            Some((Mode::Hung, until)) => {
                let woken = self.history.start() + Duration::from_millis(until);
                (woken.max(Instant::now() + there), is_lost || hung_is_lost)
            }
            Some((Mode::Slow(extra), _)) => (Instant::now() + there + Duration::from_millis(extra), is_lost),
            _ => (Instant::now() + there, is_lost),
        };
        let reply = match (is_lost || loses_reply, resets) {
            (false, _) => Reply::Comes,
            (true, false) => Reply::Silence,
            (true, true) => Reply::Reset,
        };
        Ok(Trip { arrives, is_lost, back, reply })
    }

    /// What it does with a batch, at once.
    fn decide(&self, batch: &[(Departure, Request)]) -> Vec<Verdict> {
        let mut inner = self.inner.lock().unwrap();
        batch.iter().map(|(departure, request)| self.decide_one(&mut inner, *departure, request)).collect()
    }

    fn decide_one(&self, inner: &mut Inner, departure: Departure, request: &Request) -> Verdict {
        let micros = (START + self.history.now()).checked_add_signed(inner.offset).unwrap();
        let at = Timestamp::from_micros(micros).unwrap();
        let takes = request.checks().iter().any(|check| check.cost > 0);
        inner.admissions += u64::from(takes);
        let verdict = if self.flaw == Flaw::ForgetsAdmissions && takes && inner.admissions.is_multiple_of(100)
        {
            inner.states.clone().decide(request.checks(), at)
        } else {
            inner.states.decide(request.checks(), at)
        };
        let Departure { id, probed } = departure;
        self.history.add(Event::Decided { id, probed, at, verdict: verdict.clone() });
        verdict
    }

    fn forget(&self, keys: &[StorageKey]) {
        self.inner.lock().unwrap().states.reset(keys);
        self.history.add(Event::ResetDone);
    }

    /// Sends the work, which is done whether or not somebody still waits, and waits for what comes of it.
    async fn carry<W>(self: &Arc<Self>, trip: Trip, work: W) -> Option<Vec<Verdict>>
    where
        W: FnOnce(&Self) -> Vec<Verdict> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let store = Arc::clone(self);
        drop(tokio::spawn(async move {
            sleep_until(trip.arrives).await;
            let verdicts = if trip.is_lost { Vec::new() } else { work(&store) };
            sleep_until(Instant::now() + trip.back).await;
            match trip.reply {
                Reply::Comes => drop(sender.send(verdicts)),
                Reply::Silence => store.inner.lock().unwrap().silent.push(sender),
                Reply::Reset => drop(sender),
            }
        }));
        receiver.await.ok()
    }
}

impl Link {
    /// Waits for a connection, but not past the deadline: what is not sent then never is.
    async fn connect(&self, batch: &[Request]) {
        let Some(wait) = self.store.connects() else { return };
        let connected = Instant::now() + wait;
        let last = batch.iter().map(Request::deadline).max().flatten();
        sleep_until(last.map_or(connected, |last| last.min(connected))).await;
    }
}

/// Tells that a probe has ended, however it did.
struct Probing<'a>(&'a History, usize);

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        self.0.probe_ended(self.1);
    }
}

const NAME: &str = "fake";

fn late() -> BackendError {
    BackendError::new(ErrorKind::Timeout, Effect::NotApplied, NAME, "decide", "not sent by the deadline")
}

fn broken(operation: &'static str) -> BackendError {
    BackendError::new(ErrorKind::Unavailable, Effect::Unknown, NAME, operation, "the connection broke")
}

#[async_trait]
impl Backend for Link {
    async fn decide(&self, batch: &[Request]) -> Vec<Answer> {
        self.connect(batch).await;
        let now = Instant::now();
        let is_late = |request: &Request| request.deadline().is_some_and(|deadline| deadline <= now);
        let trip = match self.store.trip(self.instance, "decide") {
            Ok(trip) => trip,
            Err(refused) => return vec![Err(refused); batch.len()],
        };
        let in_time = batch.iter().filter(|request| !is_late(request));
        let history = &self.store.history;
        let sent: Vec<(Departure, Request)> =
            in_time.map(|request| (history.sent(self.instance, request), request.clone())).collect();
        let is_probe = sent.iter().any(|(departure, _)| departure.probed.is_some());
        let _probing = is_probe.then(|| Probing(history, self.instance));
        let verdicts = if sent.is_empty() {
            Some(Vec::new())
        } else {
            self.store.carry(trip, move |store| store.decide(&sent)).await
        };
        let failed = (late(), broken("decide"));
        let mut verdicts = verdicts.map(Vec::into_iter);
        let answer = |request: &Request| match &mut verdicts {
            _ if is_late(request) => Err(failed.0.clone()),
            Some(verdicts) => Ok(verdicts.next().unwrap()),
            None => Err(failed.1.clone()),
        };
        batch.iter().map(answer).collect()
    }

    fn decide_now(&self, _request: &Request) -> Option<Answer> {
        None
    }

    fn shard(&self, _request: &Request) -> Shard {
        Shard::One(0)
    }

    fn accepts(&self, _quota: &Quota) -> Result<(), QuotaError> {
        Ok(())
    }

    async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        let trip = self.store.trip(self.instance, "reset")?;
        let keys = keys.to_vec();
        let forget = move |store: &Store| {
            store.forget(&keys);
            Vec::new()
        };
        self.store.carry(trip, forget).await.map(drop).ok_or_else(|| broken("reset"))
    }

    async fn ready(&self) -> Result<(), BackendError> {
        Ok(())
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

    fn report(&self, _tell: &mut dyn FnMut(Figure)) {}
}
