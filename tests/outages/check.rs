//! What must hold, whatever befell the store.

use crate::fault::Fault;
use crate::instance::{Key, believes};
use crate::load::Call;
use crate::spy::Trip;
use crate::watch::Seen;
use crate::{CALLS_PER_SECOND, INSTANCES};
use distributed_rate_limiter::{Origin, Quota};
use std::time::Duration;

/// What a limiter's calls wait at most, by default.
const DEADLINE: Duration = Duration::from_millis(50);
/// What a busy machine adds.
const SLACK: Duration = Duration::from_millis(250);
/// Of an instance's calls so many may fail until its breaker opens, besides those under way then.
const PAYING: usize = 20;
/// By when every instance hears the store again.
const BACK: Duration = Duration::from_secs(2);
/// How long a denial is remembered, by default, of a store that forgets nothing before its time.
const HOLD: Duration = Duration::from_secs(1);
/// From probe to probe, by default.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// So many may be sent while nothing is wrong, or after it.
const PROBES: usize = 5;
/// How much the process may grow, in KiB.
const GROWTH: u64 = 16 << 10;

/// All that a trial has seen.
pub(crate) struct Run {
    pub(crate) fault: Fault,
    /// The most connections that one instance has.
    pub(crate) connections: usize,
    /// Whether the store can lose live states.
    pub(crate) may_forget: bool,
    pub(crate) times: Times,
    pub(crate) calls: Vec<Call>,
    /// Of each instance, what it asked the store.
    pub(crate) trips: Vec<Vec<Trip>>,
    pub(crate) seen: Seen,
    /// What the store has charged the counted key.
    pub(crate) charged: u64,
    /// In KiB: before the fault, at its end, and at the end.
    pub(crate) memory: [u64; 3],
    /// Connections made during the fault, and after it.
    pub(crate) dialled: [u64; 2],
}

#[derive(Clone, Copy)]
pub(crate) struct Times {
    /// Before the fault, and when it held.
    pub(crate) began: Duration,
    pub(crate) applied: Duration,
    /// Before it was ended, and when nothing of it was left.
    pub(crate) ending: Duration,
    pub(crate) ended: Duration,
    /// When the load was over.
    pub(crate) over: Duration,
}

/// What does not hold.
pub(crate) fn broken(run: &Run) -> Vec<String> {
    let mut broken = Vec::new();
    all_are_answered_in_time(run, &mut broken);
    few_pay(run, &mut broken);
    only_probes_reach_a_store_that_is_away(run, &mut broken);
    nothing_piles_up(run, &mut broken);
    the_store_is_heard_again(run, &mut broken);
    origins_are_true(run, &mut broken);
    no_more_is_admitted_than_said(run, &mut broken);
    what_is_used_up_stays_so(run, &mut broken);
    each_call_is_charged_once(run, &mut broken);
    broken
}

pub(crate) fn summary(run: &Run) -> String {
    let calls = run.calls.len();
    let share = |origin| run.calls.iter().filter(|call| call.is_told_by(origin)).count() * 100 / calls.max(1);
    let longest = run.calls.iter().map(Call::took).max().unwrap_or_default();
    let paid = (0..INSTANCES).map(|i| run.paid_until_open(i).len()).max().unwrap_or_default();
    let back = (0..INSTANCES).filter_map(|i| run.back(i)).max().unwrap_or_default();
    let opened = (0..INSTANCES).filter_map(|i| run.opened(i)).max().unwrap_or_default();
    let [before, during, after] = run.memory;
    format!(
        "{calls} calls ({}% store, {}% remembered, {}% degraded), longest {longest:?} with {:?} of stalls in all; at \
         most {paid} of an instance failed until its breaker opened, by {:?}; {} probes; at most {} sockets and {} tasks, {:?} \
         connections made during and after; {before} KiB, {during}, {after}; all back after {back:?}",
        share(Origin::Store),
        share(Origin::RememberedDenial),
        share(Origin::Degraded),
        run.seen.stalled(Duration::ZERO, run.times.over),
        opened.saturating_sub(run.times.began),
        (0..INSTANCES).map(|i| run.probes(i).len()).sum::<usize>(),
        run.seen.sockets,
        run.seen.tasks,
        run.dialled,
    )
}

impl Run {
    fn of(&self, instance: u32) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(move |call| call.instance == instance)
    }

    /// How long a denial is remembered at most.
    fn held(&self, denial: &Call) -> Duration {
        match &denial.told {
            Ok(decision) if self.may_forget => decision.reset_after,
            _ => HOLD,
        }
    }

    /// How long it took but for the machine.
    fn took(&self, call: &Call) -> Duration {
        call.took().saturating_sub(self.seen.stalled(call.from, call.to))
    }

    /// When an instance's breaker was found open, the fault having begun.
    fn opened(&self, instance: u32) -> Option<Duration> {
        let changes = &self.seen.breakers[instance as usize];
        let opened = changes.iter().find(|(at, is_open)| *is_open && *at >= self.times.began);
        opened.map(|(at, _)| *at)
    }

    /// An instance's calls that the store failed before its breaker opened: where it fails all, also at once; else those
    /// that waited for a whole deadline.
    fn paid_until_open(&self, instance: u32) -> Vec<&Call> {
        let until = self.opened(instance).unwrap_or(self.times.ending);
        let is_one = |call: &&Call| {
            let has_waited_all_its_time = call.has_waited && call.took() >= DEADLINE;
            has_waited_all_its_time || self.fault.is_silent() && call.is_told_by(Origin::Degraded)
        };
        self.of(instance)
            .filter(is_one)
            .filter(|call| call.to >= self.times.began && call.to <= until)
            .collect()
    }

    /// What an instance asked the store while its breaker was open, and nothing could be answered.
    fn probes(&self, instance: u32) -> Vec<&Trip> {
        if !self.fault.is_silent() {
            return Vec::new();
        }
        // What was let through before it opened may wait for its trip until its deadline.
        let Some(from) = self.opened(instance).map(|opened| opened + DEADLINE) else { return Vec::new() };
        let trips = self.trips[instance as usize].iter();
        trips.filter(|trip| trip.from > from && trip.from < self.times.ending).collect()
    }

    /// After how long an instance heard the store again.
    fn back(&self, instance: u32) -> Option<Duration> {
        let ended = self.times.ended;
        let heard = self.of(instance).filter(|call| call.is_told_by(Origin::Store) && call.to >= ended);
        heard.map(|call| call.to - ended).min()
    }
}

fn all_are_answered_in_time(run: &Run, broken: &mut Vec<String>) {
    let due = run.times.over.as_millis() * u128::from(CALLS_PER_SECOND) / 1_000;
    if (run.calls.len() as u128) < due * 9 / 10 {
        broken.push(format!("only {} calls where {due} were due", run.calls.len()));
    }
    for call in &run.calls {
        if let Err(error) = &call.told {
            broken.push(format!("{:?} of instance {} was told {error}", call.key, call.instance));
        }
        if run.took(call) > DEADLINE + SLACK {
            broken.push(format!("a call took {:?}: {call:?}", call.took()));
        }
    }
}

fn few_pay(run: &Run, broken: &mut Vec<String>) {
    for instance in 0..INSTANCES {
        let paid = run.paid_until_open(instance).len();
        if paid > PAYING {
            broken.push(format!("{paid} calls of instance {instance} failed until its breaker opened"));
        }
        if !run.fault.is_silent() {
            continue;
        }
        let Some(opened) = run.opened(instance).filter(|opened| *opened < run.times.ending) else {
            broken.push(format!("the breaker of instance {instance} did not open"));
            continue;
        };
        let waited = run
            .of(instance)
            .filter(|call| call.has_waited && call.from > opened && call.to < run.times.ending);
        let waited = waited.count();
        if waited > 0 {
            broken.push(format!("{waited} calls of instance {instance} waited though its breaker was open"));
        }
    }
}

fn only_probes_reach_a_store_that_is_away(run: &Run, broken: &mut Vec<String>) {
    for instance in 0..INSTANCES {
        let probes = run.probes(instance);
        if let Some(call) = probes.iter().find(|trip| !trip.is_peek || trip.requests != 1) {
            broken.push(format!("instance {instance} asked a store that is away: {call:?}"));
        }
        for pair in probes.windows(2) {
            // The first may have left late.
            let apart = pair[1].from - pair[0].from;
            let late = SLACK + run.seen.stalled(pair[0].from - PROBE_INTERVAL, pair[1].from);
            if pair[1].from < pair[0].to || apart + late < PROBE_INTERVAL {
                broken.push(format!("instance {instance} probed twice within {apart:?}: {pair:?}"));
            }
        }
        // Nobody asks again for a caller.
        let opened = run.opened(instance).map_or(run.times.ending, |opened| opened + DEADLINE);
        let is_elsewhen = |from: Duration| !run.fault.is_silent() || from < opened || from > run.times.ending;
        let has_asked = |call: &&Call| !call.is_told_by(Origin::RememberedDenial) && is_elsewhen(call.from);
        let most = run.of(instance).filter(has_asked).count() + PROBES;
        let trips = run.trips[instance as usize].iter().filter(|trip| is_elsewhen(trip.from));
        let asked: usize = trips.map(|trip| trip.requests).sum();
        if asked > most {
            broken.push(format!(
                "instance {instance} asked the store {asked} times, for {most} calls and probes"
            ));
        }
    }
}

fn nothing_piles_up(run: &Run, broken: &mut Vec<String>) {
    let instances = INSTANCES as usize;
    // One that is given up may still be closing while another takes its place.
    let sockets = instances * (run.connections + 1);
    if run.seen.sockets > sockets {
        broken.push(format!("{} sockets, of at most {sockets}", run.seen.sockets));
    }
    // A connection has its driver, a trip and a call that nobody waits for; an instance has its caller and its probe.
    let tasks = instances * (3 * run.connections + 8);
    if run.seen.tasks > tasks {
        broken.push(format!("{} tasks besides calls, of at most {tasks}", run.seen.tasks));
    }
    let [before, during, after] = run.memory;
    if during.max(after) > before + GROWTH {
        broken.push(format!("{before} KiB of memory became {during}, then {after}"));
    }
    // Each connection is made for somebody, and while it is being made others wait for it; after the fault each is made
    // once, and once more where the last attempt was made too early.
    let seconds = (run.times.ended - run.times.began).as_secs() + 1;
    let most = instances as u64 * (run.connections as u64 + 2 * seconds);
    if run.dialled.iter().any(|dialled| *dialled > most) {
        broken.push(format!("{:?} connections made, of at most {most}", run.dialled));
    }
}

/// Each instance's first probe finds the store that is back, also if it has to connect first.
fn the_store_is_heard_again(run: &Run, broken: &mut Vec<String>) {
    let ended = run.times.ended;
    for instance in 0..INSTANCES {
        let Some(back) = run.back(instance) else {
            broken.push(format!("instance {instance} did not hear the store again"));
            continue;
        };
        if back > BACK + SLACK + run.seen.stalled(ended, ended + back) {
            let trips = run.trips[instance as usize].iter();
            let is_probe = |trip: &&Trip| trip.is_peek && trip.from >= ended && trip.to <= ended + back;
            let probes: Vec<&Trip> = trips.filter(is_probe).collect();
            broken.push(format!(
                "instance {instance} heard the store again {back:?} after {ended:?}; meanwhile: {probes:?}"
            ));
        }
    }
}

fn origins_are_true(run: &Run, broken: &mut Vec<String>) {
    for call in &run.calls {
        let within = call.from > run.times.applied && call.to < run.times.ending;
        if run.fault.is_silent() && within && call.is_told_by(Origin::Store) {
            broken.push(format!("told by a store that is away: {call:?}"));
        }
        if !call.is_told_by(Origin::RememberedDenial) {
            continue;
        }
        let is_known = run.calls.iter().any(|denial| {
            denial.is_told_by(Origin::Store)
                && (denial.instance, denial.key) == (call.instance, call.key)
                && denial.cost > denial.granted()
                && denial.from <= call.to
                && denial.to + run.held(denial) + SLACK + run.seen.stalled(denial.from, call.to) >= call.from
        });
        if !is_known || call.granted() > 0 {
            broken.push(format!("no such denial can be remembered: {call:?}"));
        }
    }
}

/// The share of a quota that each of so many instances has: its capacity, and the permits that come back in so many
/// times its window.
fn share(quota: &Quota, instances: u32) -> (u64, u64, u128) {
    let windows = quota.window().as_micros() * u128::from(instances);
    (quota.capacity().div_ceil(u64::from(instances)), quota.limit(), windows)
}

/// Whether in some stretch of time more was granted for certain than `capacity` and `limit` for each `window`. Each
/// call was decided at some instant while it lasted.
fn exceeds(mut calls: Vec<&Call>, capacity: u64, limit: u64, window: u128) -> Option<String> {
    calls.retain(|call| call.granted() > 0);
    calls.sort_by_key(|call| call.to);
    for first in &calls {
        let mut granted = 0;
        for call in calls.iter().filter(|call| call.from >= first.from) {
            granted += call.granted();
            let time = (call.to - first.from).as_micros();
            // The clocks of this check and of those who decide may be a little apart.
            let most = u128::from(capacity + 1) * window + u128::from(limit) * time;
            if u128::from(granted) * window > most {
                return Some(format!("{granted} within {time} us from {:?} on", first.from));
            }
        }
    }
    None
}

/// I10: what the store admits, and what each instance adds to it. Each has its own bound, so that one cannot hide in the
/// other's; together they are the sum.
fn no_more_is_admitted_than_said(run: &Run, broken: &mut Vec<String>) {
    let mut keys: Vec<Key> = Vec::new();
    run.calls.iter().for_each(|call| {
        if !keys.contains(&call.key) {
            keys.push(call.key)
        }
    });
    for key in keys {
        let quota = key.quota();
        let of_key: Vec<&Call> = run.calls.iter().filter(|call| call.key == key).collect();
        let by = |origin| of_key.iter().copied().filter(move |call| call.is_told_by(origin));
        let (capacity, limit, window) = share(&quota, 1);
        let lost = (1 + run.fault.losses()) * capacity;
        if let Some(excess) = exceeds(by(Origin::Store).collect(), lost, limit, window) {
            broken.push(format!("the store admitted of {key:?} {excess}"));
        }
        for instance in 0..INSTANCES {
            let (capacity, limit, window) = share(&quota, believes(instance));
            let own = by(Origin::Degraded).filter(|call| call.instance == instance);
            if let Some(excess) = exceeds(own.collect(), capacity, limit, window) {
                broken.push(format!("instance {instance} admitted by itself of {key:?} {excess}"));
            }
        }
    }
}

/// What an instance saw the store grant is charged to its share, so that an outage hands it no fresh one.
fn what_is_used_up_stays_so(run: &Run, broken: &mut Vec<String>) {
    let quota = Key::UsedUp.quota();
    let is_denied = |call: &&Call| {
        call.is_told_by(Origin::Store) && call.cost > call.granted() && call.key == Key::UsedUp
    };
    let used_up = run.calls.iter().filter(is_denied).map(|call| call.to).min();
    if used_up.is_none_or(|at| at > run.times.began) {
        broken.push("nothing was used up before the fault".to_owned());
    }
    for instance in 0..INSTANCES {
        let own: Vec<&Call> = run.of(instance).filter(|call| call.key == Key::UsedUp).collect();
        let told_by = |origin| own.iter().copied().filter(move |call| call.is_told_by(origin));
        let granted = |calls: &mut dyn Iterator<Item = &Call>| calls.map(Call::granted).sum::<u64>();
        let before = granted(&mut told_by(Origin::Store).filter(|call| call.to <= run.times.began));
        let left = share(&quota, believes(instance)).0.saturating_sub(before);
        let added = granted(&mut told_by(Origin::Degraded).filter(|call| call.from >= run.times.began));
        if added > left {
            broken.push(format!(
                "instance {instance} had {left} left of what was used up, and admitted {added}"
            ));
        }
        for peek in own.iter().filter(|call| call.cost == 0 && call.from > run.times.began) {
            let Ok(decision) = &peek.told else { continue };
            let most = match decision.origin {
                Origin::Degraded => left,
                _ if run.fault.losses() == 0 => 0,
                _ => quota.capacity(),
            };
            if decision.remaining > most {
                broken.push(format!("a peek at what is used up, of which {most} may be left: {peek:?}"));
            }
        }
    }
}

/// I7: what the store was asked for and never told of may have been charged.
fn each_call_is_charged_once(run: &Run, broken: &mut Vec<String>) {
    let counted = || run.calls.iter().filter(|call| call.key == Key::Counted);
    let granted: u64 = counted().filter(|call| call.is_told_by(Origin::Store)).map(Call::granted).sum();
    let unknown: u64 = counted()
        .filter(|call| call.is_told_by(Origin::Degraded) && call.has_waited)
        .map(|call| call.cost)
        .sum();
    let least = if run.fault.losses() == 0 { granted } else { 0 };
    if !(least..=granted + unknown).contains(&run.charged) {
        let charged = run.charged;
        broken.push(format!("{charged} charged where {granted} were granted, and {unknown} not known"));
    }
}
