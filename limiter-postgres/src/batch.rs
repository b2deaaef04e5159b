//! A batch on its way to the function `decide` and back: packed once, unpacked once.

use crate::error::{malformed, too_many_checks};
use limiter_core::algorithm::{BucketReading, Reading};
use limiter_core::batch::{self, Answer, Entry, Reply};
use limiter_core::{Algorithm, BackendError, Check, Quota, Request, Timestamp, Verdict};

/// The most requests of one trip: their rows are locked until all are decided.
pub(crate) const MAX_REQUESTS: usize = 1_024;

/// The most checks of one trip.
pub(crate) const MAX_CHECKS: usize = 4_096;

/// A batch as it is sent.
pub(crate) struct Batch<'a> {
    batch: batch::Batch<'a>,
    /// The entries in the order in which they are sent, if that is another.
    order: Vec<usize>,
    pub(crate) packed: Packed,
}

/// The arguments that are the batch's own.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    /// Those of `take`, where it can decide this batch.
    pub(crate) buckets: Option<Buckets>,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) locked: i32,
    pub(crate) quotas: Vec<i64>,
    pub(crate) requests: Vec<i64>,
}

/// Of each key the instant, how many equal requests, the us that one of them takes to refill, and the filling.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    pub(crate) ats: Vec<i64>,
    pub(crate) counts: Vec<i64>,
    pub(crate) steps: Vec<i64>,
    pub(crate) rooms: Vec<i64>,
}

/// What `take` answers.
pub(crate) struct Taken {
    pub(crate) entries: Vec<i64>,
    pub(crate) granted: Vec<i64>,
    pub(crate) ats: Vec<i64>,
    pub(crate) full_ats: Vec<i64>,
    /// What `decide` answered of the others.
    pub(crate) others: Option<Vec<i64>>,
}

impl<'a> Batch<'a> {
    /// Packs requests, of which there are at most [`MAX_REQUESTS`] with at most [`MAX_CHECKS`] checks.
    pub(crate) fn pack(requests: Vec<&'a Request>) -> Result<Self, BackendError> {
        let checks: usize = requests.iter().map(|request| request.checks().len()).sum();
        if requests.len() > MAX_REQUESTS || checks > MAX_CHECKS {
            return Err(too_many_checks(checks, MAX_CHECKS));
        }
        let batch = batch::Batch::new(requests);
        let (order, packed) = match Packed::buckets(&batch) {
            Some(packed) => packed,
            None => (Vec::new(), Packed::of(&batch)),
        };
        Ok(Self { batch, order, packed })
    }

    /// The verdicts that the function answered, one per request; `None` if the answer is not of its form.
    pub(crate) fn verdicts(&self, reply: Vec<i64>) -> Option<Vec<Result<Verdict, BackendError>>> {
        let mut reply = Reply::new(reply);
        let clock = Timestamp::from_micros(reply.number()?).ok()?;
        let answers: Option<Vec<Answer>> =
            self.batch.entries().map(|entry| reply.answer(&entry, clock)).collect();
        Some(self.verdicts_of(answers?))
    }

    /// The verdicts that `take` answered, one per request; `None` if the answer is not of its form.
    pub(crate) fn verdicts_of_taken(&self, taken: Taken) -> Option<Vec<Result<Verdict, BackendError>>> {
        let entries: Vec<Entry<'_>> = self.batch.entries().collect();
        let mut answers: Vec<Option<Answer>> = entries.iter().map(|_| None).collect();
        let rows = taken.entries.into_iter().zip(taken.granted).zip(taken.ats).zip(taken.full_ats);
        for (((place, granted), at), full_at) in rows {
            let place = *self.order.get(usize::try_from(place).ok()?.checked_sub(1)?)?;
            let (step, _) = step(entries.get(place)?.request.checks().first()?);
            let granted = u64::try_from(granted).ok()?;
            let base = u64::try_from(full_at).ok()?.checked_sub(granted.checked_mul(step)?)?;
            let now = Timestamp::from_micros(u64::try_from(at).ok()?).ok()?;
            let readings = vec![Reading::Bucket(BucketReading::new(base, 0))];
            *answers.get_mut(place)? = Some(Answer { now, granted, readings });
        }
        if let Some(others) = taken.others {
            let mut others = Reply::new(others);
            let clock = Timestamp::from_micros(others.number()?).ok()?;
            for place in &self.order {
                if answers[*place].is_none() {
                    answers[*place] = Some(others.answer(&entries[*place], clock)?);
                }
            }
        }
        Some(self.verdicts_of(answers.into_iter().collect::<Option<_>>()?))
    }

    fn verdicts_of(&self, answers: Vec<Answer>) -> Vec<Result<Verdict, BackendError>> {
        let verdicts = self.batch.verdicts(answers);
        verdicts.into_iter().map(|verdict| verdict.ok_or_else(malformed)).collect()
    }
}

/// The us that a request takes to refill, and those of the filling.
fn step(check: &Check) -> (u64, u64) {
    let [interval, ..] = check.quota.interval_parts();
    let [filling, _] = check.quota.filling_parts();
    (interval.saturating_mul(check.cost), filling)
}

impl Packed {
    /// A batch that `take` can decide, and the order of its entries: each of one check, by itself on its key, that may
    /// take from a bucket whose permits refill in whole us.
    fn buckets(batch: &batch::Batch<'_>) -> Option<(Vec<usize>, Self)> {
        if batch.entries().len() != batch.keys().len() {
            return None;
        }
        let mut sent = Vec::with_capacity(batch.entries().len());
        for (i, entry) in batch.entries().enumerate() {
            let [check] = entry.request.checks() else { return None };
            let [_, rem, denominator] = check.quota.interval_parts();
            let is_bucket =
                matches!(check.quota.algorithm(), Algorithm::TokenBucket | Algorithm::LeakyBucket);
            let may_fit = (1..=check.quota.capacity()).contains(&check.cost);
            // A permit of less than one us has a remainder.
            if !is_bucket || (rem, denominator) != (0, 1) || !may_fit {
                return None;
            }
            sent.push((check.key.to_bytes(), i, entry, check));
        }
        sent.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
        let mut packed = Self { locked: i32::try_from(sent.len()).unwrap_or(i32::MAX), ..Self::default() };
        let (mut buckets, mut quotas) = (Buckets::default(), Vec::new());
        let mut order = Vec::with_capacity(sent.len());
        for (key, i, entry, check) in sent {
            let at = entry.request.instant().map_or(-1, |at| number(at.as_micros()));
            let (step, room) = step(check);
            order.push(i);
            packed.keys.push(key);
            buckets.ats.push(at);
            buckets.counts.push(entry.count.into());
            buckets.steps.push(number(step));
            buckets.rooms.push(number(room));
            let place = count(order.len());
            let quota = quota_of(&mut quotas, check);
            packed.requests.extend([at, entry.count.into(), 1, place, quota, cost(check)]);
        }
        packed.quotas = quotas.iter().flat_map(numbers).collect();
        packed.buckets = Some(buckets);
        Some((order, packed))
    }

    fn of(batch: &batch::Batch<'_>) -> Self {
        let mut is_locked = vec![false; batch.keys().len()];
        for entry in batch.entries() {
            for (check, place) in entry.request.checks().iter().zip(entry.places) {
                is_locked[*place] |= (1..=check.quota.capacity()).contains(&check.cost);
            }
        }
        let mut keys: Vec<(bool, Vec<u8>, usize)> = batch
            .keys()
            .iter()
            .enumerate()
            .map(|(place, key)| (!is_locked[place], key.to_bytes(), place))
            .collect();
        keys.sort_unstable();
        let mut position = vec![0; keys.len()];
        keys.iter().enumerate().for_each(|(i, (_, _, place))| position[*place] = i + 1);

        let mut quotas: Vec<Quota> = Vec::new();
        let mut requests = Vec::with_capacity(6 * batch.requests().len());
        for entry in batch.entries() {
            let at = entry.request.instant().map_or(-1, |at| number(at.as_micros()));
            requests.extend([at, entry.count.into(), count(entry.places.len())]);
            for (check, place) in entry.request.checks().iter().zip(entry.places) {
                requests.extend([count(position[*place]), quota_of(&mut quotas, check), cost(check)]);
            }
        }
        Self {
            buckets: None,
            locked: i32::try_from(is_locked.iter().filter(|is_locked| **is_locked).count())
                .unwrap_or(i32::MAX),
            keys: keys.into_iter().map(|(_, key, _)| key).collect(),
            quotas: quotas.iter().flat_map(numbers).collect(),
            requests,
        }
    }
}

/// The number of a check's quota, from 1.
fn quota_of(quotas: &mut Vec<Quota>, check: &Check) -> i64 {
    let known = quotas.iter().rposition(|quota| *quota == check.quota);
    count(known.unwrap_or_else(|| {
        quotas.push(check.quota);
        quotas.len() - 1
    })) + 1
}

/// Above the capacity, one cost is as good as any other.
fn cost(check: &Check) -> i64 {
    number(check.cost.min(check.quota.capacity() + 1))
}

/// A quota as `decide` takes it.
fn numbers(quota: &Quota) -> [i64; 7] {
    let [whole, rem, denominator] = quota.interval_parts();
    let [filling, filling_rem] = quota.filling_parts();
    let windowed = |kind| [kind, number(quota.limit()), number(window(quota)), 1, 0, 0, 0];
    match quota.algorithm() {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => {
            let product = u128::from(2 * filling + 2) * u128::from(denominator);
            let kind = i64::from(product >= 1 << 62);
            let parts = [whole, rem, denominator, filling, filling_rem, quota.capacity()].map(number);
            let [q1, q2, q3, q4, q5, q6] = parts;
            [kind, q1, q2, q3, q4, q5, q6]
        }
        Algorithm::FixedWindow => windowed(2),
        Algorithm::SlidingLog => windowed(3),
        Algorithm::SlidingCounter => windowed(4),
    }
}

/// Every number of a quota, a cost or an instant is below 2^53.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn window(quota: &Quota) -> u64 {
    u64::try_from(quota.window().as_micros()).unwrap_or(u64::MAX)
}
