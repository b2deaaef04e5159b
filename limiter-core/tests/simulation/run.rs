//! One seed, one run: a time in which everything goes wrong, and one in which all must heal.

use crate::check::check;
use crate::history::{Event, History, Id, Record, Violation, micros};
use crate::plan::{Call, Plan, What, quota};
use crate::planted::Bug;
use crate::stack::Stack;
use crate::store::{Flaw, Link, Store};
use fastrand::Rng;
use limiter_core::{Algorithm, Backend, Check, Keyspace, Origin, Request, StorageKey, Verdict};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::time::{sleep, sleep_until, timeout};

/// What came of a run.
pub(crate) struct Run {
    pub(crate) plan: Arc<Plan>,
    pub(crate) record: Record,
    pub(crate) wrong: Vec<Violation>,
}

/// Which layers a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Built {
    ByHand(Option<Bug>),
    /// By `standard`: nobody looks inside.
    AsStandard,
}

impl Run {
    pub(crate) fn of(seed: u64, built: Built) -> Self {
        let plan = Arc::new(Plan::new(seed));
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let mut record = runtime.block_on(simulate(Arc::clone(&plan), built));
        let mut wrong = std::mem::take(&mut record.wrong);
        if built != Built::AsStandard {
            wrong.extend(check(&plan, &record));
        }
        Self { plan, record, wrong }
    }

    /// Of the callers' side alone: what they asked, were answered, and when.
    pub(crate) fn callers(&self) -> Vec<(u64, Event)> {
        let is_theirs = |event: &Event| {
            matches!(event, Event::Answered { .. } | Event::Dropped { .. } | Event::ResetEnded { .. })
        };
        self.record.events.iter().filter(|(_, event)| is_theirs(event)).cloned().collect()
    }

    /// The same for the same seed.
    pub(crate) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (at, event) in &self.record.events {
            (at, format!("{event:?}")).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// How often what happened in it.
    pub(crate) fn tally(&self) -> BTreeMap<String, u64> {
        let mut tally = BTreeMap::new();
        for (_, event) in &self.record.events {
            let name = match event {
                Event::Answered { verdict, .. } => {
                    let origin = verdict.decisions()[0].origin;
                    format!("{origin:?} {}", if verdict.allowed() { "allowed" } else { "denied" })
                }
                Event::Failed { kind, effect, .. } => format!("{kind:?} {effect:?}"),
                Event::Sent { is_probe: true, .. } => "probes".to_owned(),
                Event::Asked { breaker, .. } => format!("asked while {breaker:?}"),
                Event::Dropped { .. } => "dropped".to_owned(),
                Event::ResetDone => "resets".to_owned(),
                Event::Restarted => "restarts".to_owned(),
                Event::Stepped(_) => "clock steps".to_owned(),
                _ => continue,
            };
            *tally.entry(name).or_default() += 1;
        }
        tally
    }

    /// For people to read.
    pub(crate) fn print(&self) {
        println!("{:#?}", self.plan);
        for (id, asked) in self.record.asked.iter().enumerate() {
            println!("request {id}: {asked:?}");
        }
        for (at, event) in &self.record.events {
            println!("{:>10} us  {event:?}", at);
        }
    }
}

struct Simulation {
    plan: Arc<Plan>,
    history: Arc<History>,
    stacks: Vec<Stack>,
    /// In the place of the stacks' own.
    standard: Option<Vec<Arc<dyn Backend>>>,
}

async fn simulate(plan: Arc<Plan>, built: Built) -> Record {
    let history = Arc::new(History::new(&plan.skews, plan.layers.decision));
    let (bug, flaw) = match built {
        Built::ByHand(Some(Bug::StoreForgetsAdmissions)) => (None, Flaw::ForgetsAdmissions),
        Built::ByHand(Some(Bug::StoreForgetsWhenTheClockStepsBack)) => {
            (None, Flaw::ForgetsWhenTheClockStepsBack)
        }
        Built::ByHand(bug) => (bug, Flaw::None),
        Built::AsStandard => (None, Flaw::None),
    };
    let store = Arc::new(Store::new(Arc::clone(&plan), Arc::clone(&history), flaw));
    let link = |instance| Arc::new(Link { instance, store: Arc::clone(&store) });
    let instances = 0..plan.skews.len();
    let stack = |instance| Stack::new(link(instance), &plan.layers, bug, instance, &history);
    let simulation = Arc::new(Simulation {
        plan: Arc::clone(&plan),
        history: Arc::clone(&history),
        stacks: instances.clone().map(stack).collect(),
        standard: (built == Built::AsStandard)
            .then(|| instances.map(|instance| Stack::as_standard(link(instance), &plan.layers)).collect()),
    });
    let mishaps = Arc::clone(&store);
    let mishaps = tokio::spawn(async move {
        for (at, mishap) in &mishaps.plan().mishaps {
            sleep_until(mishaps.history().start() + Duration::from_millis(*at)).await;
            mishaps.suffers(*mishap);
        }
    });
    let mut callers = vec![mishaps];
    for number in 0..plan.calls.len() {
        sleep_until(history.start() + Duration::from_millis(plan.calls[number].at)).await;
        let simulation = Arc::clone(&simulation);
        callers.push(tokio::spawn(async move {
            simulation.call(&simulation.plan.calls[number]).await;
        }));
    }
    sleep_until(history.start() + Duration::from_millis(plan.calm) + plan.longest_to_heal()).await;
    for caller in callers {
        match timeout(Duration::from_secs(10), caller).await {
            Ok(Ok(())) => {}
            Ok(Err(panicked)) => history.wrong("I16", format!("a caller panicked: {panicked}")),
            Err(_) => history.wrong("I11", "a caller waits for ever".to_owned()),
        }
    }
    simulation.is_healed().await;
    drop((simulation, store));
    // Probes that nobody needs any more find that out when they are due.
    sleep(Duration::from_secs(60)).await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    if tasks > 0 {
        history.wrong("I12", format!("{tasks} tasks are left"));
    }
    history.take()
}

impl Simulation {
    fn top(&self, instance: usize) -> &Arc<dyn Backend> {
        self.standard.as_ref().map_or(&self.stacks[instance].top, |standard| &standard[instance])
    }

    async fn call(&self, call: &Call) {
        match &call.what {
            What::Ask(requests) => {
                let now = self.history.now() / 1_000;
                let check = |(key, cost): &(usize, u64)| {
                    let key = &self.plan.keys[*key];
                    Check { key: key.key.clone(), quota: key.quota(now), cost: *cost }
                };
                let requests = requests.iter().map(|request| request.iter().map(check).collect()).collect();
                self.ask(call.instance, requests, call.dropped_after).await;
            }
            What::Reset => self.reset(call.instance, call.dropped_after).await,
        }
    }

    /// Asks as a limiter does: at once if it can be, else by waiting.
    async fn ask(
        &self,
        instance: usize,
        requests: Vec<Vec<Check>>,
        dropped_after: Option<u64>,
    ) -> Vec<Verdict> {
        let (stack, top) = (&self.stacks[instance], self.top(instance));
        self.is_bounded(instance);
        let asked: Vec<(Id, Request)> =
            requests.into_iter().map(|checks| self.history.ask(instance, checks, stack.breaker())).collect();
        let ids: Vec<Id> = asked.iter().map(|(id, _)| *id).collect();
        let batch: Vec<Request> = asked.into_iter().map(|(_, request)| request).collect();
        let answers = async {
            match &batch[..] {
                [only] => match top.decide_now(only) {
                    Some(answer) => vec![answer],
                    None => top.decide(&batch).await,
                },
                _ => top.decide(&batch).await,
            }
        };
        let answers = match dropped_after {
            Some(patience) => timeout(Duration::from_millis(patience), answers).await.ok(),
            None => Some(answers.await),
        };
        self.history.breaker_is(instance, stack.breaker());
        let Some(answers) = answers else {
            ids.into_iter().for_each(|id| self.history.ended(id, Event::Dropped { id }, false));
            return Vec::new();
        };
        if answers.len() != ids.len() {
            self.history.wrong("answers", format!("{} to a call of {}", answers.len(), ids.len()));
        }
        let mut verdicts = Vec::new();
        for (id, answer) in ids.into_iter().zip(answers) {
            match answer {
                Ok(verdict) => {
                    let is_by_store = verdict.decisions().iter().all(|d| d.origin == Origin::Store);
                    self.history.ended(id, Event::Answered { id, verdict: verdict.clone() }, is_by_store);
                    verdicts.push(verdict);
                }
                Err(error) => self.history.wrong("degraded", format!("request {id} got an error: {error}")),
            }
        }
        verdicts
    }

    async fn reset(&self, instance: usize, dropped_after: Option<u64>) {
        let keys: Vec<StorageKey> = self.plan.keys.iter().map(|key| key.key.clone()).collect();
        let asked = self.history.now();
        self.history.add(Event::ResetAsked { instance });
        let reset = self.top(instance).reset(&keys);
        let is_ok = match dropped_after {
            Some(patience) => {
                timeout(Duration::from_millis(patience), reset).await.is_ok_and(|done| done.is_ok())
            }
            None => reset.await.is_ok(),
        };
        self.history.add(Event::ResetEnded { instance, is_ok });
        let took = self.history.now() - asked;
        if took > micros(self.plan.layers.upkeep) {
            self.history.wrong("I11", format!("a reset took {took} us"));
        }
    }

    /// Looked at now and then, as it takes as long as all the rest.
    fn is_bounded(&self, instance: usize) {
        if !(self.history.now() / 1_000).is_multiple_of(8) {
            return;
        }
        let (queued, _) = self.stacks[instance].queued();
        if u64::try_from(queued).unwrap() > self.plan.layers.max_queued {
            self.history.wrong("I12", format!("{queued} requests are queued"));
        }
    }

    /// Every instance is back at the store, with keys that were never used: the check compares the answers with the
    /// reference.
    async fn is_healed(&self) {
        let mut random = Rng::with_seed(self.plan.seed.rotate_left(32));
        let keyspaces =
            Algorithm::ALL.map(|algorithm| Keyspace::new("simulation", "rule", algorithm).unwrap());
        let quotas = Algorithm::ALL.map(|algorithm| quota(algorithm, &mut random));
        for round in 0..12 {
            for instance in 0..self.stacks.len() {
                let algorithm = random.usize(..Algorithm::ALL.len());
                let key = keyspaces[algorithm].key(b"fresh");
                let check = Check { key, quota: quotas[algorithm], cost: random.u64(1..=3) };
                for verdict in self.ask(instance, vec![vec![check]], None).await {
                    let origin = verdict.decisions()[0].origin;
                    if origin == Origin::Degraded || (round == 0 && instance == 0 && origin != Origin::Store)
                    {
                        let what = format!("instance {instance} is {origin:?} after all faults");
                        self.history.wrong("I13", what);
                    }
                }
            }
            sleep(Duration::from_millis(random.u64(..300))).await;
        }
        for (instance, stack) in self.stacks.iter().enumerate() {
            let (queued, in_flight) = stack.queued();
            if queued + in_flight > 0 {
                let what = format!(
                    "instance {instance} has {queued} queued and {in_flight} on their way at the end"
                );
                self.history.wrong("I12", what);
            }
        }
    }
}
