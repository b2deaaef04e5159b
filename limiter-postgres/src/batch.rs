//! A batch on its way to what decides it and back: packed once, unpacked once.

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
}

/// The arguments that are the batch's own, by what decides it.
#[derive(Debug)]
pub(crate) enum Packed {
    One(One),
    Take(Buckets, Many),
    Decide(Many),
}

/// Those of `one`.
#[derive(Debug)]
pub(crate) struct One {
    pub(crate) key: Vec<u8>,
    pub(crate) at: i64,
    pub(crate) count: i64,
    pub(crate) cost: i64,
    pub(crate) quota: [i64; 7],
}

/// Those of `decide`.
#[derive(Debug, Default)]
pub(crate) struct Many {
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) locked: i32,
    pub(crate) quotas: Vec<i64>,
    pub(crate) requests: Vec<i64>,
}

/// Those of `take`: of each key the instant, the us that what is asked takes to refill, and the filling.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    pub(crate) ats: Vec<i64>,
    pub(crate) steps: Vec<i64>,
    pub(crate) rooms: Vec<i64>,
}

/// What `take` answers.
pub(crate) struct Taken {
    pub(crate) entries: Vec<i64>,
    pub(crate) full_ats: Vec<i64>,
    pub(crate) ats: Vec<i64>,
    /// What `decide` answered of the others.
    pub(crate) others: Option<Vec<i64>>,
}

/// What a batch came to.
pub(crate) struct Decided {
    /// One per request.
    pub(crate) verdicts: Vec<Result<Verdict, BackendError>>,
    /// Rows that held no state.
    pub(crate) corrupt: u64,
}

impl<'a> Batch<'a> {
    /// Packs requests, of which there are at most [`MAX_REQUESTS`] with at most [`MAX_CHECKS`] checks.
    pub(crate) fn pack(requests: Vec<&'a Request>) -> Result<(Self, Packed), BackendError> {
        let checks: usize = requests.iter().map(|request| request.checks().len()).sum();
        if requests.len() > MAX_REQUESTS || checks > MAX_CHECKS {
            return Err(too_many_checks(checks, MAX_CHECKS));
        }
        let batch = batch::Batch::new(requests);
        let one = One::of(&batch).map(|one| (Vec::new(), Packed::One(one)));
        let (order, packed) = one
            .or_else(|| Packed::buckets(&batch))
            .unwrap_or_else(|| (Vec::new(), Packed::Decide(Many::of(&batch))));
        Ok((Self { batch, order }, packed))
    }

    /// What `one` or `decide` answered; `None` if it is not of their form.
    pub(crate) fn decided(&self, reply: Vec<i64>) -> Option<Decided> {
        let mut reply = Reply::new(reply);
        let clock = Timestamp::from_micros(reply.number()?).ok()?;
        let corrupt = reply.number()?;
        let answers = self.batch.entries().map(|entry| reply.answer(&entry, clock));
        Some(self.verdicts(answers.collect::<Option<_>>()?, corrupt))
    }

    /// What `take` answered; `None` if it is not of its form.
    pub(crate) fn decided_by_taking(&self, taken: Taken) -> Option<Decided> {
        let entries: Vec<Entry<'_>> = self.batch.entries().collect();
        let mut answers: Vec<Option<Answer>> = entries.iter().map(|_| None).collect();
        let rows = taken.entries.into_iter().zip(taken.full_ats).zip(taken.ats);
        for ((place, full_at), at) in rows {
            let place = *self.order.get(usize::try_from(place).ok()?.checked_sub(1)?)?;
            *answers.get_mut(place)? = Some(Ask::of(entries.get(place)?)?.taken(full_at, at)?);
        }
        let mut corrupt = 0;
        if let Some(others) = taken.others {
            let mut others = Reply::new(others);
            let clock = Timestamp::from_micros(others.number()?).ok()?;
            corrupt = others.number()?;
            for place in &self.order {
                if answers[*place].is_none() {
                    answers[*place] = Some(others.answer(&entries[*place], clock)?);
                }
            }
        }
        Some(self.verdicts(answers.into_iter().collect::<Option<_>>()?, corrupt))
    }

    fn verdicts(&self, answers: Vec<Answer>, corrupt: u64) -> Decided {
        let verdicts = self.batch.verdicts(answers).map(|verdict| verdict.ok_or_else(malformed));
        Decided { verdicts: verdicts.collect(), corrupt }
    }
}

/// What an entry asks of a bucket whose permits refill in whole us.
struct Ask {
    /// How many requests, as far as they fit in a bucket that was never used.
    count: u64,
    /// The us that they take to refill.
    step: u64,
    /// The filling in us.
    room: u64,
}

impl Ask {
    /// Of one check that may take, of such a bucket.
    fn of(entry: &Entry<'_>) -> Option<Self> {
        let [check] = entry.request.checks() else { return None };
        let is_bucket = matches!(check.quota.algorithm(), Algorithm::TokenBucket | Algorithm::LeakyBucket);
        let [interval, rem, denominator] = check.quota.interval_parts();
        // A permit of less than one us has a remainder.
        if !is_bucket || (rem, denominator) != (0, 1) || !may_take(check) {
            return None;
        }
        let [room, _] = check.quota.filling_parts();
        let step = interval.checked_mul(check.cost)?;
        let count = u64::from(entry.count).min(room.checked_div(step)?);
        Some(Self { count, step: step.checked_mul(count)?, room })
    }

    /// What `take` answered of it.
    fn taken(&self, full_at: i64, at: i64) -> Option<Answer> {
        let full_at = u64::try_from(full_at).ok()?;
        let base = full_at.checked_sub(self.step)?;
        // The clock was read once more behind the instant that decided, at which it did fit.
        let latest = u64::try_from(at).map_or(base, |at| at.min(base));
        let now = Timestamp::from_micros(latest.max(full_at.saturating_sub(self.room))).ok()?;
        Some(Answer {
            now,
            granted: self.count,
            readings: vec![Reading::Bucket(BucketReading::new(base, 0))],
        })
    }
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
            let check = entry.request.checks().first()?;
            sent.push((check.key.to_bytes(), i, Ask::of(&entry)?, entry, check));
        }
        sent.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
        let mut packed = Many { locked: i32::try_from(sent.len()).unwrap_or(i32::MAX), ..Many::default() };
        let (mut buckets, mut quotas) = (Buckets::default(), Vec::new());
        let mut order = Vec::with_capacity(sent.len());
        for (key, i, ask, entry, check) in sent {
            let at = instant(&entry);
            order.push(i);
            packed.keys.push(key);
            buckets.ats.push(at);
            buckets.steps.push(number(ask.step));
            buckets.rooms.push(number(ask.room));
            let place = count(order.len());
            let quota = quota_of(&mut quotas, check);
            packed.requests.extend([at, entry.count.into(), 1, place, quota, cost(check)]);
        }
        packed.quotas = quotas.iter().flat_map(numbers).collect();
        Some((order, Self::Take(buckets, packed)))
    }
}

impl One {
    /// A batch of one entry that `one` can decide: of one check that may take.
    fn of(batch: &batch::Batch<'_>) -> Option<Self> {
        let mut entries = batch.entries();
        let (Some(entry), None) = (entries.next(), entries.next()) else { return None };
        let [check] = entry.request.checks() else { return None };
        may_take(check).then(|| Self {
            key: check.key.to_bytes(),
            at: instant(&entry),
            count: entry.count.into(),
            cost: cost(check),
            quota: numbers(&check.quota),
        })
    }
}

impl Many {
    fn of(batch: &batch::Batch<'_>) -> Self {
        let mut is_locked = vec![false; batch.keys().len()];
        for entry in batch.entries() {
            for (check, place) in entry.request.checks().iter().zip(entry.places) {
                is_locked[*place] |= may_take(check);
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
            let at = instant(&entry);
            requests.extend([at, entry.count.into(), count(entry.places.len())]);
            for (check, place) in entry.request.checks().iter().zip(entry.places) {
                requests.extend([count(position[*place]), quota_of(&mut quotas, check), cost(check)]);
            }
        }
        Self {
            locked: i32::try_from(is_locked.iter().filter(|is_locked| **is_locked).count())
                .unwrap_or(i32::MAX),
            keys: keys.into_iter().map(|(_, key, _)| key).collect(),
            quotas: quotas.iter().flat_map(numbers).collect(),
            requests,
        }
    }
}

/// Whether there are states that admit it, and it changes them.
fn may_take(check: &Check) -> bool {
    (1..=check.quota.capacity()).contains(&check.cost)
}

/// The instant that an entry carries; below 0: the server's.
fn instant(entry: &Entry<'_>) -> i64 {
    entry.request.instant().map_or(-1, |at| number(at.as_micros()))
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
