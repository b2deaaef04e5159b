//! A batch on its way to the script `decide` and back: packed once, unpacked once.

use crate::error::{malformed, too_many_checks};
use crate::script::{Needs, Source};
use ahash::{HashMap, HashMapExt};
use limiter_core::algorithm::{BucketReading, CounterReading, LogReading, Reading, WindowReading};
use limiter_core::{Algorithm, BackendError, Check, Quota, Request, StorageKey, Timestamp, Verdict};
use redis::Value;
use std::time::Duration;
use tokio::time::Instant;

/// The most requests of one trip: the script answers within a millisecond, during which the server does nothing else.
pub(crate) const MAX_REQUESTS: usize = 1_024;

/// The most checks of one trip: Lua hands over its keys on a stack of 8,000.
pub(crate) const MAX_CHECKS: usize = 4_096;

/// How long states are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// Once they are reset.
    pub(crate) grace: Duration,
    /// At least, where time is virtual.
    pub(crate) virtual_expiry: Duration,
}

/// Requests of one trip, in order. Those in a row that are equal on one key travel as one entry with a count.
pub(crate) struct Batch<'a> {
    requests: Vec<&'a Request>,
    /// The entry of each request.
    entry_of: Vec<usize>,
    entries: Vec<Entry>,
    keys: Vec<&'a StorageKey>,
    packed: Vec<u8>,
    needs: Needs,
}

/// Equal requests in a row.
struct Entry {
    /// The first of them.
    request: usize,
    /// How many; 0 for one that is not to be taken.
    count: u32,
}

impl<'a> Batch<'a> {
    /// Packs requests, of which there are at most [`MAX_REQUESTS`] with at most [`MAX_CHECKS`] checks.
    pub(crate) fn pack(requests: Vec<&'a Request>, keep: Keep) -> Result<Self, BackendError> {
        let checks: usize = requests.iter().map(|request| request.checks().len()).sum();
        if requests.len() > MAX_REQUESTS || checks > MAX_CHECKS {
            return Err(too_many_checks(checks, MAX_CHECKS));
        }
        let keys = Keys::of(&requests, checks);
        let (entry_of, entries) = entries(&requests, &keys);
        Ok(Self::write(requests, entry_of, entries, keys, keep))
    }

    /// Packs a request that is to be answered and not to be taken.
    pub(crate) fn look(request: &'a Request, keep: Keep) -> Self {
        let requests = vec![request];
        let keys = Keys::of(&requests, request.checks().len());
        Self::write(requests, vec![0], vec![Entry { request: 0, count: 0 }], keys, keep)
    }

    fn write(
        requests: Vec<&'a Request>,
        entry_of: Vec<usize>,
        entries: Vec<Entry>,
        keys: Keys<'a>,
        keep: Keep,
    ) -> Self {
        let (mut needs, mut quotas): (Needs, Vec<Quota>) = Default::default();
        let mut body = Writer(Vec::with_capacity(32 * entries.len()));
        for entry in &entries {
            let request = requests[entry.request];
            if request.checks().len() != 1 || entry.count == 0 {
                needs.all_or_nothing();
            }
            body.instant(request.instant());
            body.0.extend_from_slice(&entry.count.to_le_bytes());
            body.short(request.checks().len());
            for (check, slot) in request.checks().iter().zip(&keys.slots[keys.first_check[entry.request]..]) {
                let known = quotas.iter().rposition(|quota| *quota == check.quota);
                let number = known.unwrap_or_else(|| {
                    needs.algorithm(check.quota.algorithm());
                    quotas.push(check.quota);
                    quotas.len() - 1
                });
                body.short(keys.position(*slot) + 1);
                body.short(number + 1);
                // Above the capacity, one cost is as good as any other.
                body.double(check.cost.min(check.quota.capacity() + 1));
            }
        }
        let mut packed = Writer::head(keys.plain.len(), &quotas, entries.len(), keep);
        packed.0.extend_from_slice(&body.0);
        Self { requests, entry_of, entries, keys: keys.in_order(), packed: packed.0, needs }
    }

    /// The script that decides it.
    pub(crate) fn script(&self) -> &'static Source {
        self.needs.decide()
    }

    /// The keys that the script is to declare, each once.
    pub(crate) fn keys(&self) -> &[&'a StorageKey] {
        &self.keys
    }

    /// When the first of its callers stops waiting.
    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        self.requests.iter().filter_map(|request| request.deadline()).min()
    }

    /// The script's argument.
    pub(crate) fn argument(&self) -> &[u8] {
        &self.packed
    }

    /// What the script answered to each entry, and how many states were corrupt; `None` if it is not of its form.
    pub(crate) fn answers(&self, reply: Value) -> Option<(u64, Vec<Answer>)> {
        let Value::Array(numbers) = reply else { return None };
        let mut reply = Reader(numbers.into_iter());
        let clock = reply.number()?;
        let corrupt = reply.number()?;
        let answer = |entry: &Entry| Answer::read(&mut reply, self.requests[entry.request], clock);
        Some((corrupt, self.entries.iter().map(answer).collect::<Option<_>>()?))
    }

    /// The verdicts of these answers, one per request.
    pub(crate) fn verdicts(&self, mut answers: Vec<Answer>) -> Vec<Result<Verdict, BackendError>> {
        let verdict = |(request, entry): (&&Request, &usize)| {
            answers.get_mut(*entry).and_then(|answer| answer.next(request)).ok_or_else(malformed)
        };
        self.requests.iter().zip(&self.entry_of).map(verdict).collect()
    }
}

/// The argument of the script that gives back what a check, answered by itself, has taken.
pub(crate) fn gift(check: &Check, at: Option<Timestamp>, taken: &Answer, keep: Keep) -> Vec<u8> {
    let is_log = check.quota.algorithm() == Algorithm::SlidingLog;
    let mut packed = Writer::head(usize::from(!is_log), &[check.quota], 0, keep);
    packed.instant(at);
    packed.double(check.cost);
    packed.double(taken.now.as_micros());
    packed.double(taken.first_number);
    packed.0
}

/// A key among those of its kind.
#[derive(Clone, Copy)]
enum Slot {
    Plain(usize),
    Log(usize),
}

/// The keys of a batch, each once; logs apart, as they are not read whole.
struct Keys<'a> {
    plain: Vec<&'a StorageKey>,
    logs: Vec<&'a StorageKey>,
    /// One per check, of all requests in a row.
    slots: Vec<Slot>,
    /// Where a request's checks begin in `slots`.
    first_check: Vec<usize>,
}

impl<'a> Keys<'a> {
    fn of(requests: &[&'a Request], checks: usize) -> Self {
        let mut known = HashMap::with_capacity(checks);
        let mut keys = Self {
            plain: Vec::with_capacity(checks),
            logs: Vec::new(),
            slots: Vec::with_capacity(checks),
            first_check: Vec::with_capacity(requests.len()),
        };
        for request in requests {
            keys.first_check.push(keys.slots.len());
            for Check { key, quota, .. } in request.checks() {
                let slot = *known.entry(key).or_insert_with(|| {
                    if quota.algorithm() == Algorithm::SlidingLog {
                        keys.logs.push(key);
                        Slot::Log(keys.logs.len() - 1)
                    } else {
                        keys.plain.push(key);
                        Slot::Plain(keys.plain.len() - 1)
                    }
                });
                keys.slots.push(slot);
            }
        }
        keys
    }

    /// The place of a key in [`in_order`](Self::in_order).
    fn position(&self, slot: Slot) -> usize {
        match slot {
            Slot::Plain(index) => index,
            Slot::Log(index) => self.plain.len() + index,
        }
    }

    fn len(&self) -> usize {
        self.plain.len() + self.logs.len()
    }

    fn in_order(mut self) -> Vec<&'a StorageKey> {
        self.plain.append(&mut self.logs);
        self.plain
    }
}

/// Joins requests of one check that are equal and have none of another kind between them on their key.
fn entries(requests: &[&Request], keys: &Keys<'_>) -> (Vec<usize>, Vec<Entry>) {
    let mut entries: Vec<Entry> = Vec::with_capacity(requests.len());
    let mut last_on = vec![None; keys.len()];
    let entry_of = requests.iter().enumerate().map(|(i, request)| {
        let slots = keys.slots[keys.first_check[i]..].iter().take(request.checks().len());
        if let [check] = request.checks() {
            let last = slots.clone().next().and_then(|slot| last_on[keys.position(*slot)]);
            if let Some(entry) =
                last.filter(|entry: &usize| equal(requests[entries[*entry].request], check, request))
            {
                entries[entry].count += 1;
                return entry;
            }
        }
        entries.push(Entry { request: i, count: 1 });
        let entry = entries.len() - 1;
        slots.for_each(|slot| last_on[keys.position(*slot)] = Some(entry));
        entry
    });
    let entry_of = entry_of.collect();
    (entry_of, entries)
}

/// Whether `earlier`, on the same key, is the same request.
fn equal(earlier: &Request, check: &Check, request: &Request) -> bool {
    let same = |other: &Check| other.quota == check.quota && other.cost == check.cost;
    matches!(earlier.checks(), [other] if same(other)) && earlier.instant() == request.instant()
}

/// What was answered to an entry, of which its requests take their verdicts one after another.
pub(crate) struct Answer {
    pub(crate) now: Timestamp,
    pub(crate) granted: u64,
    pub(crate) readings: Vec<Reading>,
    /// The first number of the first reading: what a window or a log needs to find a taking again.
    first_number: u64,
}

impl Answer {
    fn read(reply: &mut Reader, request: &Request, clock: u64) -> Option<Self> {
        let now = match request.instant() {
            Some(at) => at,
            None => Timestamp::from_micros(clock).ok()?,
        };
        let granted = reply.number()?;
        let first_number = reply.peek();
        let readings =
            request.checks().iter().map(|check| reply.reading(&check.quota)).collect::<Option<_>>()?;
        Some(Self { now, granted, readings, first_number })
    }

    /// The verdict on the next request; `None` if the script and core's function do not agree on it.
    fn next(&mut self, request: &Request) -> Option<Verdict> {
        let verdict = Reading::verdict(request.checks(), &self.readings, self.now)?;
        if verdict.allowed() != (self.granted > 0) {
            return None;
        }
        self.granted = self.granted.saturating_sub(1);
        if let ([check], [reading]) = (request.checks(), &mut self.readings[..])
            && verdict.allowed()
            && check.cost > 0
        {
            *reading = reading.after(&check.quota, check.cost);
        }
        Some(verdict)
    }
}

/// The script's side of a number is a double; every one here is an integer below 2^53.
struct Writer(Vec<u8>);

impl Writer {
    /// A batch's head, and its quotas.
    fn head(plain: usize, quotas: &[Quota], requests: usize, keep: Keep) -> Self {
        let mut packed = Self(Vec::with_capacity(64 + 64 * quotas.len() + 32 * requests));
        packed.short(plain);
        packed.short(quotas.len());
        packed.short(requests);
        packed.millis(keep.grace);
        packed.millis(keep.virtual_expiry);
        quotas.iter().for_each(|quota| packed.quota(quota));
        packed
    }

    fn short(&mut self, number: usize) {
        self.0.extend_from_slice(&u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes());
    }

    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
    fn double(&mut self, number: u64) {
        self.0.extend_from_slice(&(number as f64).to_le_bytes());
    }

    fn millis(&mut self, duration: Duration) {
        // Beyond the longest window there is nothing to keep.
        let most = Quota::MAX_WINDOW.as_millis();
        self.double(u64::try_from(duration.as_millis().min(most)).unwrap_or(0));
    }

    fn instant(&mut self, at: Option<Timestamp>) {
        match at {
            Some(at) => self.double(at.as_micros()),
            None => self.0.extend_from_slice(&(-1_f64).to_le_bytes()),
        }
    }

    fn quota(&mut self, quota: &Quota) {
        let number = Algorithm::ALL.iter().position(|algorithm| *algorithm == quota.algorithm());
        self.0.push(number.and_then(|number| u8::try_from(number).ok()).unwrap_or(0));
        match quota.algorithm() {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => {
                quota
                    .interval_parts()
                    .into_iter()
                    .chain(quota.filling_parts())
                    .for_each(|part| self.double(part));
                self.double(quota.capacity());
            }
            Algorithm::FixedWindow | Algorithm::SlidingLog | Algorithm::SlidingCounter => {
                self.double(quota.limit());
                self.double(window(quota));
            }
        }
    }
}

fn window(quota: &Quota) -> u64 {
    u64::try_from(quota.window().as_micros()).unwrap_or(u64::MAX)
}

/// The script's integers, one after another.
struct Reader(std::vec::IntoIter<Value>);

impl Reader {
    fn int(&mut self) -> Option<i64> {
        match self.0.next()? {
            Value::Int(number) => Some(number),
            _ => None,
        }
    }

    /// The number that comes next; 0 if it is none.
    fn peek(&self) -> u64 {
        match self.0.as_slice().first() {
            Some(Value::Int(number)) => u64::try_from(*number).unwrap_or(0),
            _ => 0,
        }
    }

    fn number(&mut self) -> Option<u64> {
        u64::try_from(self.int()?).ok()
    }

    /// A number, or -1 for none.
    fn perhaps(&mut self) -> Option<Option<u64>> {
        let number = self.int()?;
        if number == -1 { Some(None) } else { u64::try_from(number).ok().map(Some) }
    }

    fn reading(&mut self, quota: &Quota) -> Option<Reading> {
        Some(match quota.algorithm() {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => {
                Reading::Bucket(BucketReading::new(self.number()?, self.number()?))
            }
            Algorithm::FixedWindow => Reading::Window(WindowReading::new(self.number()?, self.number()?)),
            Algorithm::SlidingLog => Reading::Log(LogReading::new(
                self.number()?,
                self.number()?,
                self.perhaps()?,
                self.perhaps()?,
            )),
            Algorithm::SlidingCounter => {
                let (deciding, current, previous) = (self.number()?, self.number()?, self.number()?);
                let elapsed = deciding % window(quota);
                Reading::Counter(CounterReading::new(deciding - elapsed, elapsed / 1_000, current, previous))
            }
        })
    }
}
