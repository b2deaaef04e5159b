//! A batch on its way to the script `decide` and back: packed once, unpacked once.

use crate::error::{malformed, too_many_checks};
use crate::script::{Needs, Source, decide_alone};
use limiter_core::batch::{self, Entry, Reply};
use limiter_core::{Algorithm, BackendError, Check, Quota, Request, StorageKey, Timestamp, Verdict};
use redis::Value;
use std::borrow::Borrow;
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

/// A batch as the script takes it.
pub(crate) struct Batch<'a> {
    batch: batch::Batch<'a>,
    keys: Vec<&'a StorageKey>,
    packed: Vec<u8>,
    script: &'static Source,
}

impl<'a> Batch<'a> {
    /// Packs requests, of which there are at most [`MAX_REQUESTS`] with at most [`MAX_CHECKS`] checks.
    pub(crate) fn pack(requests: Vec<&'a Request>, keep: Keep) -> Result<Self, BackendError> {
        let checks: usize = requests.iter().map(|request| request.checks().len()).sum();
        if requests.len() > MAX_REQUESTS || checks > MAX_CHECKS {
            return Err(too_many_checks(checks, MAX_CHECKS));
        }
        Ok(Self::write(requests, keep, true))
    }

    /// Packs a request that is to be answered and not to be taken.
    pub(crate) fn look(request: &'a Request, keep: Keep) -> Self {
        Self::write(vec![request], keep, false)
    }

    /// The script that decides it.
    pub(crate) fn script(&self) -> &'static Source {
        self.script
    }

    /// The keys that the script is to declare, each once; those of logs behind all others, as they are not read whole.
    pub(crate) fn keys(&self) -> &[&'a StorageKey] {
        &self.keys
    }

    /// When the first of its callers stops waiting.
    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        self.batch.first_deadline()
    }

    /// The script's argument.
    pub(crate) fn argument(&self) -> &[u8] {
        &self.packed
    }

    fn write(requests: Vec<&'a Request>, keep: Keep, is_taken: bool) -> Self {
        let batch = batch::Batch::new(requests);
        let is_log = |place: &usize| batch.keys()[*place].keyspace().algorithm() == Algorithm::SlidingLog;
        let (logs, plain): (Vec<usize>, Vec<usize>) = (0..batch.keys().len()).partition(is_log);
        let order = || plain.iter().chain(&logs);
        let mut position = vec![0; batch.keys().len()];
        order().enumerate().for_each(|(i, place)| position[*place] = i + 1);
        let (mut needs, mut quotas): (Needs, Vec<Quota>) = Default::default();
        let mut body = Writer(Vec::with_capacity(32 * batch.entries().len()));
        for entry in batch.entries() {
            if entry.places.len() != 1 || !is_taken {
                needs.all_or_nothing();
            }
            body.instant(entry.request.instant());
            let count = if is_taken { entry.count } else { 0 };
            body.0.extend_from_slice(&count.to_le_bytes());
            body.short(entry.places.len());
            for (check, place) in entry.request.checks().iter().zip(entry.places) {
                let known = quotas.iter().rposition(|quota| *quota == check.quota);
                let number = known.unwrap_or_else(|| {
                    needs.algorithm(check.quota.algorithm());
                    quotas.push(check.quota);
                    quotas.len() - 1
                });
                body.short(position[*place]);
                body.short(number + 1);
                // Above the capacity, one cost is as good as any other.
                body.double(check.cost.min(check.quota.capacity() + 1));
            }
        }
        let mut packed = Writer::head(plain.len(), &quotas, batch.entries().len(), keep);
        packed.0.extend_from_slice(&body.0);
        let keys = order().map(|place| batch.keys()[*place]).collect();
        let script = match requests_alone(&batch).filter(|_| is_taken).and_then(decide_alone) {
            Some(script) => script,
            None => needs.decide(),
        };
        Self { batch, keys, packed: packed.0, script }
    }

    /// What the script answered to each entry, and how many states were corrupt; `None` if it is not of its form.
    pub(crate) fn answers(&self, reply: Value) -> Option<(u64, Vec<Answer>)> {
        let Value::BulkString(packed) = reply else { return None };
        let mut reply = Reply::new(packed.as_chunks().0.iter().map(integer));
        let clock = Timestamp::from_micros(reply.number()?).ok()?;
        let corrupt = reply.number()?;
        let answer = |entry: Entry<'_>| Answer::read(&mut reply, &entry, clock);
        Some((corrupt, self.batch.entries().map(answer).collect::<Option<_>>()?))
    }

    /// The verdicts of these answers, one per request.
    pub(crate) fn verdicts(&self, answers: Vec<Answer>) -> Vec<Result<Verdict, BackendError>> {
        let answers = answers.into_iter().map(|answer| answer.answer).collect();
        self.batch.verdicts(answers).map(|verdict| verdict.ok_or_else(malformed)).collect()
    }
}

/// The algorithm of a batch in which equal requests in a row, of one check, are all there is.
fn requests_alone(batch: &batch::Batch<'_>) -> Option<Algorithm> {
    let mut entries = batch.entries();
    match (entries.next()?.request.checks(), entries.next()) {
        ([check], None) => Some(check.quota.algorithm()),
        _ => None,
    }
}

/// A number of the reply; what is no integer below 2^53 is less than any number there is.
#[expect(clippy::cast_possible_truncation, reason = "an integer that fits, as it was compared")]
fn integer(double: &[u8; 8]) -> i64 {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let double = f64::from_le_bytes(*double);
    if double.fract() == 0.0 && double.abs() < EXACT { double as i64 } else { i64::MIN }
}

/// The argument of the script that gives back what a check, answered by itself, has taken.
pub(crate) fn gift(check: &Check, at: Option<Timestamp>, taken: &Answer, keep: Keep) -> Vec<u8> {
    let is_log = check.quota.algorithm() == Algorithm::SlidingLog;
    let mut packed = Writer::head(usize::from(!is_log), &[check.quota], 0, keep);
    packed.instant(at);
    packed.double(check.cost);
    packed.double(taken.answer.now.as_micros());
    packed.double(taken.first_number);
    packed.0
}

/// What was answered to an entry.
pub(crate) struct Answer {
    pub(crate) answer: batch::Answer,
    /// The first number of the first reading: what a window or a log needs to find a taking again.
    first_number: u64,
}

impl Borrow<batch::Answer> for Answer {
    fn borrow(&self) -> &batch::Answer {
        &self.answer
    }
}

impl Answer {
    fn read(
        reply: &mut Reply<impl Iterator<Item = i64> + Clone>,
        entry: &Entry<'_>,
        clock: Timestamp,
    ) -> Option<Self> {
        let mut ahead = reply.clone();
        let (_granted, first_number) = (ahead.number()?, ahead.number()?);
        let answer = reply.answer(entry, clock)?;
        Some(Self { answer, first_number })
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
