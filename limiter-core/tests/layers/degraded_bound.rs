//! What several instances admit together that are cut off from their store in turn: never more than is stated.

use crate::remote::Remote;
use crate::{at, check, decide, quota};
use limiter_core::{Degrade, DegradeConfig, OnOutage, Origin, Quota, Request};
use std::num::NonZeroU32;

/// How many instances there are.
const INSTANCES: u64 = 4;

/// Virtual ms that a run takes.
const END: u64 = 4_000;

/// One instance, and from its first cut to its last heal.
struct Instance {
    way: Remote,
    layer: Degrade<Remote>,
    cuts: Vec<(u64, u64)>,
}

impl Instance {
    /// Up to three cuts at random.
    fn new(store: &Remote, random: &mut fastrand::Rng) -> Self {
        let way = store.another_way();
        let instances = NonZeroU32::new(u32::try_from(INSTANCES).unwrap()).unwrap();
        let config = DegradeConfig::new().on_outage(OnOutage::Local { instances });
        let layer = Degrade::new(way.clone(), config);
        let mut ends: Vec<u64> = (0..2 * random.u64(..=3)).map(|_| random.u64(..END)).collect();
        ends.sort_unstable();
        Self { way, layer, cuts: ends.chunks(2).map(|cut| (cut[0], cut[1])).collect() }
    }

    fn is_cut(&self, now: u64) -> bool {
        self.cuts.iter().any(|(from, to)| (*from..*to).contains(&now))
    }

    /// How much of a time lies between the first cut and the last heal.
    fn overlap(&self, from: u64, to: u64) -> u64 {
        match (self.cuts.first(), self.cuts.last()) {
            (Some((first, _)), Some((_, last))) => to.min(*last).saturating_sub(from.max(*first)),
            _ => 0,
        }
    }
}

/// The adversary: who asks, from now on and for how long, and who takes a rest.
async fn run(quota: Quota, seed: u64) -> (Vec<Instance>, Vec<u64>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let store = Remote::new();
    let instances: Vec<_> = (0..INSTANCES).map(|_| Instance::new(&store, &mut random)).collect();
    let (mut admitted, mut is_greedy) = (Vec::new(), true);
    for now in 0..END {
        if random.u16(..1_000) == 0 {
            is_greedy = !is_greedy;
        }
        if !is_greedy && random.u8(..20) > 0 {
            continue;
        }
        for instance in &instances {
            let is_cut = instance.is_cut(now);
            instance.way.is_cut(is_cut);
            let request = Request::one(check("a", quota, 1)).unwrap().at(at(now));
            // Until it is denied, as many as there are.
            loop {
                let decision = decide(&instance.layer, &request).await.unwrap().summary().unwrap();
                assert_eq!(decision.origin == Origin::Degraded, is_cut);
                if !decision.allowed {
                    break;
                }
                admitted.push(now);
            }
        }
    }
    (instances, admitted)
}

/// For each interval, `B + r T + sum over the instances that were ever cut of (ceil(B / N) + r / N * their overlap)`.
#[tokio::test]
async fn buckets_keep_the_bound_over_every_interval() {
    let quota = quota("30/s burst 10");
    let (limit, window, burst) = (30, 1_000, 10);
    let mut nearest = 0.0_f64;
    for seed in 0..25 {
        let (instances, admitted) = run(quota, seed).await;
        for (i, from) in admitted.iter().enumerate() {
            for (j, to) in admitted.iter().enumerate().skip(i) {
                let cut = instances.iter().filter(|instance| !instance.cuts.is_empty());
                // In parts of a permit, `1 / (W * N)`.
                let extra = cut.map(|instance| {
                    u64::div_ceil(burst, INSTANCES) * window * INSTANCES
                        + limit * instance.overlap(*from, *to)
                });
                let bound = burst * window * INSTANCES + limit * (to - from) * INSTANCES + extra.sum::<u64>();
                let taken = u64::try_from(j - i + 1).unwrap() * window * INSTANCES;
                assert!(taken <= bound, "seed {seed}: {taken} of {bound} from {from} to {to}");
                #[expect(clippy::cast_precision_loss, reason = "for people to read")]
                let share = taken as f64 / bound as f64;
                nearest = nearest.max(share);
            }
        }
    }
    println!("the most that was admitted is {nearest:.3} of the bound");
    assert!(nearest > 0.8, "an adversary that comes nowhere near shows nothing: {nearest}");
}

/// Per aligned window at most `L` by the store and `ceil(L / N)` by each instance that was ever cut.
#[tokio::test]
async fn windows_keep_the_bound_in_every_window() {
    let (limit, window) = (10, 500);
    for seed in 0..25 {
        let (instances, admitted) = run(quota("10 per 500ms fixed-window"), seed).await;
        let cut = instances.iter().filter(|instance| !instance.cuts.is_empty()).count();
        let bound = limit + cut * usize::div_ceil(limit, usize::try_from(INSTANCES).unwrap());
        for start in (0..END).step_by(window) {
            let end = start + u64::try_from(window).unwrap();
            let taken = admitted.iter().filter(|now| (start..end).contains(now)).count();
            assert!(taken <= bound, "seed {seed}: {taken} above {bound} from {start}");
        }
    }
}
