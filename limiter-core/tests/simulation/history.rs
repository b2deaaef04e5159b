//! What happened in a run, in order, and what is wrong at first sight.

use limiter_core::{BreakerState, Check, Effect, ErrorKind, Request, Timestamp, Verdict};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// The number of a request in the order of asking.
pub(crate) type Id = usize;

/// Everything that happened.
pub(crate) struct History {
    start: Instant,
    skews: Vec<u64>,
    longest_wait: Duration,
    record: Mutex<Record>,
}

#[derive(Default)]
pub(crate) struct Record {
    /// Each with its instant, in us from the start.
    pub(crate) events: Vec<(u64, Event)>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) wrong: Vec<Violation>,
    /// By instance, and by its own instant, which no two of its requests share.
    ids: HashMap<(usize, Timestamp), Id>,
    instances: Vec<Instance>,
}

/// A request, as its caller asked it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) instance: usize,
    /// By the instance's clock.
    pub(crate) at: Timestamp,
    /// In us from the start.
    pub(crate) when: u64,
    pub(crate) checks: Vec<Check>,
    /// How its breaker was then, and which recovery it was.
    breaker: BreakerState,
    recovery: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Asked {
        id: Id,
        instance: usize,
        breaker: BreakerState,
    },
    /// It has left for the store.
    Sent {
        id: Id,
        is_probe: bool,
    },
    /// The store has decided, at an instant of its own clock, on all checks, or as a probe on that one.
    Decided {
        id: Id,
        probed: Option<usize>,
        at: Timestamp,
        verdict: Verdict,
    },
    /// What the degraded mode was told.
    Failed {
        id: Id,
        kind: ErrorKind,
        effect: Effect,
    },
    Answered {
        id: Id,
        verdict: Verdict,
    },
    /// The caller has gone away.
    Dropped {
        id: Id,
    },
    ResetAsked {
        instance: usize,
    },
    ResetDone,
    ResetEnded {
        instance: usize,
        is_ok: bool,
    },
    Restarted,
    Stepped(i64),
}

/// What must never be, and which invariant of the checks it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// What is known of an instance.
#[derive(Clone, Default)]
struct Instance {
    was_open: bool,
    recovery: u64,
    /// Of this recovery: requests at the store, and those that it has answered.
    trials: Vec<Id>,
    answered: usize,
    probes: usize,
}

/// Where virtual time starts; no multiple of anything.
pub(crate) const START: u64 = 1_795_465_002_435_613;

impl History {
    pub(crate) fn new(skews: &[u64], longest_wait: Duration) -> Self {
        let instances = vec![Instance::default(); skews.len()];
        Self {
            start: Instant::now(),
            skews: skews.to_vec(),
            longest_wait,
            record: Mutex::new(Record { instances, ..Record::default() }),
        }
    }

    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// In us from the start.
    pub(crate) fn now(&self) -> u64 {
        self.start.elapsed().as_micros().try_into().unwrap()
    }

    pub(crate) fn add(&self, event: Event) {
        let now = self.now();
        self.record().events.push((now, event));
    }

    pub(crate) fn wrong(&self, invariant: &'static str, what: String) {
        self.record().wrong.push(Violation { invariant, what });
    }

    /// A new request, with the instant by which it is known from now on.
    pub(crate) fn ask(&self, instance: usize, checks: Vec<Check>, breaker: BreakerState) -> (Id, Request) {
        let (now, mut record) = (self.now(), self.record());
        let mut at = Timestamp::from_micros(START + self.skews[instance] + now).unwrap();
        while record.ids.contains_key(&(instance, at)) {
            at = at + Duration::from_micros(1);
        }
        let id = record.asked.len();
        record.ids.insert((instance, at), id);
        let recovery = record.instances[instance].now_is(breaker);
        record.events.push((now, Event::Asked { id, instance, breaker }));
        let request = Request::new(checks.clone()).unwrap().at(at);
        record.asked.push(Asked { instance, at, when: now, checks, breaker, recovery });
        (id, request)
    }

    /// How the breaker of an instance is.
    pub(crate) fn breaker_is(&self, instance: usize, breaker: BreakerState) {
        self.record().instances[instance].now_is(breaker);
    }

    pub(crate) fn id(&self, instance: usize, request: &Request) -> Id {
        self.record().ids[&(instance, request.instant().unwrap())]
    }

    /// A request leaves for the store; for a probe, the check that it asks about.
    pub(crate) fn sent(&self, instance: usize, request: &Request) -> Departure {
        let (now, mut record) = (self.now(), self.record());
        let id = record.ids[&(instance, request.instant().unwrap())];
        let asked = &record.asked[id];
        let probed = match request.checks() {
            [only] if only.cost == 0 => asked.checks.iter().position(|check| check.key == only.key),
            _ => None,
        };
        let latest = asked.when + micros(self.longest_wait);
        let (breaker, recovery) = (asked.breaker, asked.recovery);
        record.events.push((now, Event::Sent { id, is_probe: probed.is_some() }));
        let of = &mut record.instances[instance];
        let mut wrong = None;
        if probed.is_some() {
            of.probes += 1;
            if of.probes > 1 {
                wrong = Some(format!("{} probes of instance {instance} side by side", of.probes));
            }
        } else if breaker == BreakerState::Open {
            wrong = Some(format!("request {id} was sent, though the breaker was open"));
        } else if now > latest {
            wrong = Some(format!("request {id} was sent after its deadline"));
        } else if breaker == BreakerState::Recovering && of.recovery == recovery && !of.trials.contains(&id) {
            of.trials.push(id);
            if of.trials.len() > 1 + of.answered {
                let (trials, answered) = (of.trials.len(), of.answered);
                wrong =
                    Some(format!("{trials} requests try the store side by side after {answered} answers"));
            }
        }
        record.wrong.extend(wrong.map(|what| Violation { invariant: "I11", what }));
        Departure { id, probed }
    }

    /// A probe has its answer, or was given up.
    pub(crate) fn probe_ended(&self, instance: usize) {
        // One that nobody gives up ends with its runtime, when the record has been taken.
        if let Some(of) = self.record().instances.get_mut(instance) {
            of.probes -= 1;
        }
    }

    /// The end of a request, and whether the store has answered it.
    pub(crate) fn ended(&self, id: Id, event: Event, is_by_store: bool) {
        let (now, mut record) = (self.now(), self.record());
        record.events.push((now, event));
        let instance = record.asked[id].instance;
        let of = &mut record.instances[instance];
        let before = of.trials.len();
        of.trials.retain(|trial| *trial != id);
        if is_by_store && of.trials.len() < before {
            of.answered += 1;
        }
    }

    /// All of it.
    pub(crate) fn take(&self) -> Record {
        std::mem::take(&mut *self.record())
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }
}

/// A request that leaves, and if it is a probe the number of the check that it asks about.
#[derive(Clone, Copy)]
pub(crate) struct Departure {
    pub(crate) id: Id,
    pub(crate) probed: Option<usize>,
}

impl Instance {
    /// Which recovery it is. Whoever opens a breaker looks here afterwards, so that no opening is missed.
    fn now_is(&mut self, breaker: BreakerState) -> u64 {
        if breaker == BreakerState::Open {
            self.was_open = true;
        } else if std::mem::take(&mut self.was_open) {
            self.recovery += 1;
            self.trials.clear();
            self.answered = 0;
        }
        self.recovery
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap()
}
