//! What a seed stands for: who asks what and when, and all that goes wrong meanwhile.

use fastrand::Rng;
use limiter_core::{
    Algorithm, BreakerConfig, CoalesceConfig, DeadlineConfig, DegradeConfig, DenyCacheConfig, ErrorKind,
    Keyspace, OnOutage, Quota, StorageKey,
};
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::Range;
use std::time::Duration;

/// Times are ms of the run, unless they say otherwise.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// How far the clock of each instance is off, in us.
    pub(crate) skews: Vec<u64>,
    pub(crate) keys: Vec<Key>,
    pub(crate) calls: Vec<Call>,
    pub(crate) outages: Vec<Outage>,
    pub(crate) mishaps: Vec<(u64, Mishap)>,
    pub(crate) network: Network,
    pub(crate) layers: Layers,
    /// From here on nothing goes wrong any more.
    pub(crate) calm: u64,
}

#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) key: StorageKey,
    /// Each from its time on, the first from the start.
    pub(crate) quotas: Vec<(u64, Quota)>,
}

/// What a caller does.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) at: u64,
    pub(crate) instance: usize,
    pub(crate) what: What,
    /// It goes away after so long.
    pub(crate) dropped_after: Option<u64>,
}

#[derive(Debug)]
pub(crate) enum What {
    /// Requests that travel as one call: of keys by number, and their costs.
    Ask(Vec<Vec<(usize, u64)>>),
    /// Of all keys: what is remembered of a key may be forgotten with another's reset, and of which is chosen by a secret
    /// hash.
    Reset,
}

#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) when: Range<u64>,
    /// Whom it cuts off; `None`: everybody.
    pub(crate) instance: Option<usize>,
    pub(crate) mode: Mode,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// Nothing is sent, and whoever asks is told so.
    Refused(ErrorKind),
    /// What is sent waits until it is over.
    Hung,
    /// What is sent takes so much longer.
    Slow(u64),
}

/// What happens to the store.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mishap {
    /// It loses all states.
    Restarts,
    /// Its clock steps by so many us.
    Steps(i64),
}

/// How often, of 1,000 trips, and how long.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) lost_requests: u32,
    pub(crate) lost_replies: u32,
    /// Of those lost: the connection breaks, so that it is known at once.
    pub(crate) resets: u32,
    /// A connection has to be made first.
    pub(crate) connects: u32,
    pub(crate) longest: u64,
}

/// The layers' numbers; those that a check needs are there by themselves too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layers {
    pub(crate) hold: Duration,
    pub(crate) deny_cache: DenyCacheConfig,
    pub(crate) on_outage: OnOutage,
    pub(crate) degrade: DegradeConfig,
    pub(crate) probe_interval: Duration,
    pub(crate) longest_probe_interval: Duration,
    pub(crate) probe_timeout: Duration,
    pub(crate) breaker: BreakerConfig,
    pub(crate) decision: Duration,
    pub(crate) upkeep: Duration,
    pub(crate) deadline: DeadlineConfig,
    pub(crate) max_queued: u64,
    pub(crate) coalesce: CoalesceConfig,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let instances = random.usize(1..=4);
        let calm = random.u64(500..5_000);
        let keys: Vec<Key> =
            (0..random.usize(1..=5)).map(|number| Key::new(number, calm, &mut random)).collect();
        Self {
            seed,
            skews: (0..instances).map(|_| random.u64(..4_000_000)).collect(),
            calls: calls(&keys, instances, calm, &mut random),
            keys,
            outages: outages(instances, calm, &mut random),
            mishaps: mishaps(calm, &mut random),
            network: Network::new(&mut random),
            layers: Layers::new(instances, &mut random),
            calm,
        }
    }

    /// How the way from an instance to the store is.
    pub(crate) fn mode(&self, instance: usize, now: u64) -> Option<(Mode, u64)> {
        let is_hit = |outage: &&Outage| {
            outage.when.contains(&now) && outage.instance.is_none_or(|number| number == instance)
        };
        self.outages.iter().find(is_hit).map(|outage| (outage.mode, outage.when.end))
    }

    /// Within so long of the end of all faults every instance is to be back at the store: what was lost is given up, the
    /// next probe comes, and is answered.
    pub(crate) fn longest_to_heal(&self) -> Duration {
        let is_wrong = |outage: &Outage| matches!(outage.mode, Mode::Refused(ErrorKind::Config));
        let slower = if self.outages.iter().any(is_wrong) { 5 } else { 1 };
        let Layers { probe_interval, longest_probe_interval, probe_timeout, decision, .. } = self.layers;
        let after_a_loss = probe_timeout + probe_interval * slower / 4;
        (longest_probe_interval * slower).max(after_a_loss) + decision * 2
    }
}

impl Key {
    fn new(number: usize, calm: u64, random: &mut Rng) -> Self {
        let algorithm = Algorithm::ALL[random.usize(..Algorithm::ALL.len())];
        let keyspace = Keyspace::new("simulation", "rule", algorithm).unwrap();
        let mut quotas = vec![(0, quota(algorithm, random))];
        if random.u8(..5) == 0 {
            quotas.push((random.u64(..calm), quota(algorithm, random)));
        }
        Self { key: keyspace.key(format!("key {number}").as_bytes()), quotas }
    }

    pub(crate) fn quota(&self, now: u64) -> Quota {
        let begun = self.quotas.iter().rev().find(|(from, _)| *from <= now);
        begun.unwrap_or(&self.quotas[0]).1
    }
}

pub(crate) fn quota(algorithm: Algorithm, random: &mut Rng) -> Quota {
    const WINDOWS: [u64; 7] = [13, 100, 250, 500, 1_000, 3_000, 60_000];
    let window = Duration::from_millis(WINDOWS[random.usize(..WINDOWS.len())]);
    let quota = Quota::new(random.u64(1..=20), window).algorithm(algorithm);
    let is_bucket = matches!(algorithm, Algorithm::TokenBucket | Algorithm::LeakyBucket);
    if is_bucket && random.bool() { quota.burst(random.u64(1..=20)) } else { quota }.build().unwrap()
}

/// Crowds and rests.
fn calls(keys: &[Key], instances: usize, calm: u64, random: &mut Rng) -> Vec<Call> {
    let (resets, drops) = (random.bool(), random.bool());
    let mut calls = Vec::new();
    for _ in 0..random.u64(1..=6) {
        let (from, crowd) = (random.u64(..calm), random.u64(1..=40));
        let over = random.u64(1..=calm.min(600));
        for _ in 0..crowd {
            let what = if resets && random.u8(..30) == 0 {
                What::Reset
            } else {
                let together = if random.u8(..8) == 0 { random.usize(2..=3) } else { 1 };
                What::Ask((0..together).map(|_| request(keys, random)).collect())
            };
            calls.push(Call {
                at: (from + random.u64(..over)).min(calm),
                instance: random.usize(..instances),
                what,
                dropped_after: (drops && random.u8(..8) == 0).then(|| random.u64(..30)),
            });
        }
    }
    calls.sort_by_key(|call| call.at);
    calls
}

/// A question where one key stands is a probe's, by which probes are told: callers ask for two at once.
fn request(keys: &[Key], random: &mut Rng) -> Vec<(usize, u64)> {
    let mut numbers: Vec<usize> = (0..keys.len()).collect();
    random.shuffle(&mut numbers);
    let several = if random.u8(..4) == 0 { random.usize(1..=3) } else { 1 };
    numbers.truncate(several);
    let is_peek = numbers.len() > 1 && random.u8(..4) == 0;
    let cost = |key: usize, random: &mut Rng| match random.u8(..10) {
        _ if is_peek => 0,
        0 => random.u64(1..=keys[key].quotas[0].1.capacity() + 1),
        1 | 2 => 2,
        _ => 1,
    };
    numbers.into_iter().map(|key| (key, cost(key, random))).collect()
}

fn outages(instances: usize, calm: u64, random: &mut Rng) -> Vec<Outage> {
    let how_many = random.usize(..=4);
    let one = |_| {
        let from = random.u64(..calm);
        let mode = match random.u8(..8) {
            0..3 => Mode::Refused(ErrorKind::Unavailable),
            3 => Mode::Refused(ErrorKind::Config),
            4..6 => Mode::Hung,
            _ => Mode::Slow(random.u64(1..150)),
        };
        let instance = random.bool().then(|| random.usize(..instances));
        Outage { when: from..random.u64(from..calm), instance, mode }
    };
    (0..how_many).map(one).collect()
}

fn mishaps(calm: u64, random: &mut Rng) -> Vec<(u64, Mishap)> {
    let how_many = if random.bool() { 0 } else { random.usize(1..=3) };
    let one = |_| {
        let mishap = match random.u8(..3) {
            0 => Mishap::Restarts,
            _ => {
                let longest = 1 << random.u32(10..34);
                let step = random.i64(1..longest);
                Mishap::Steps(if random.bool() { step } else { -step })
            }
        };
        (random.u64(..calm), mishap)
    };
    let mut mishaps: Vec<_> = (0..how_many).map(one).collect();
    mishaps.sort_by_key(|(at, _)| *at);
    mishaps
}

impl Network {
    fn new(random: &mut Rng) -> Self {
        let often = |random: &mut Rng| if random.bool() { 0 } else { random.u32(1..300) };
        Self {
            lost_requests: often(random),
            lost_replies: often(random),
            resets: random.u32(..=1_000),
            connects: often(random),
            longest: random.u64(..=8),
        }
    }
}

impl Layers {
    fn new(instances: usize, random: &mut Rng) -> Self {
        let ms = |range: Range<u64>, random: &mut Rng| Duration::from_millis(random.u64(range));
        let count = |range: Range<usize>, random: &mut Rng| NonZeroUsize::new(random.usize(range)).unwrap();
        let failures = |range: Range<u32>, random: &mut Rng| NonZeroU32::new(random.u32(range)).unwrap();
        let on_outage = match random.u8(..8) {
            0 => OnOutage::Allow,
            1 => OnOutage::Deny,
            2 => OnOutage::Local { instances: NonZeroU32::MIN },
            _ => OnOutage::Local { instances: u32::try_from(instances).unwrap().try_into().unwrap() },
        };
        let (hold, probe_interval) = (ms(20..1_500, random), ms(100..1_500, random));
        let (decision, upkeep) = (ms(20..100, random), ms(50..1_000, random));
        let max_queued = count(3..60, random);
        let layers = Self {
            hold,
            deny_cache: DenyCacheConfig::new().hold(hold),
            on_outage,
            degrade: DegradeConfig::new().on_outage(on_outage).local_keys(NonZeroUsize::new(256).unwrap()),
            probe_interval,
            longest_probe_interval: probe_interval,
            probe_timeout: decision,
            breaker: BreakerConfig::new()
                .failures_in_a_row(failures(1..8, random))
                .min_failures(failures(3..20, random))
                .failing_percent(random.u8(20..=101))
                .window(ms(50..10_000, random))
                .probe_interval(probe_interval)
                .seed(random.u64(..)),
            decision,
            upkeep,
            deadline: DeadlineConfig::new().decision(decision).upkeep(upkeep),
            max_queued: max_queued.get().try_into().unwrap(),
            coalesce: CoalesceConfig::new()
                .eager(random.usize(..12))
                .slots(count(1..4, random))
                .max_batch(count(1..20, random))
                .max_queued(max_queued),
        };
        let longest_probe_interval = probe_interval + ms(0..1_500, random);
        let probe_timeout = ms(20..800, random);
        let breaker =
            layers.breaker.longest_probe_interval(longest_probe_interval).probe_timeout(probe_timeout);
        Self { longest_probe_interval, probe_timeout, breaker, ..layers }
    }
}
