//! A batch on its way to a script and back: packed once, unpacked once.

mod in_groups;
mod in_order;
mod writer;

use crate::error::{malformed, too_many_checks};
use crate::script::Source;
use limiter_core::batch::{self, Entry, Reply};
use limiter_core::{Algorithm, BackendError, Check, Request, StorageKey, Timestamp, Verdict};
use redis::Value;
use std::borrow::Borrow;
use std::time::Duration;
use tokio::time::Instant;
use writer::Writer;

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

/// A batch as a script takes it.
pub(crate) struct Batch<'a> {
    batch: batch::Batch<'a>,
    packed: Packed<'a>,
}

/// What is sent of a batch.
struct Packed<'a> {
    script: &'static Source,
    keys: Vec<&'a StorageKey>,
    argument: Vec<u8>,
    /// The entries, as the script answers them.
    order: Vec<usize>,
}

impl<'a> Batch<'a> {
    /// Packs requests, of which there are at most [`MAX_REQUESTS`] with at most [`MAX_CHECKS`] checks.
    pub(crate) fn pack(requests: Vec<&'a Request>, keep: Keep) -> Result<Self, BackendError> {
        let checks: usize = requests.iter().map(|request| request.checks().len()).sum();
        if requests.len() > MAX_REQUESTS || checks > MAX_CHECKS {
            return Err(too_many_checks(checks, MAX_CHECKS));
        }
        let batch = batch::Batch::new(requests);
        let is_of_one = batch.entries().all(|entry| entry.places.len() == 1);
        // With as many keys as entries, no key sees two of them: they may be decided in any order.
        let packed = if is_of_one && batch.keys().len() == batch.entries().len() {
            in_groups::pack(&batch, keep)
        } else {
            in_order::pack(&batch, keep, true)
        };
        Ok(Self { batch, packed })
    }

    /// Packs a request that is to be answered and not to be taken.
    pub(crate) fn look(request: &'a Request, keep: Keep) -> Self {
        let batch = batch::Batch::new(vec![request]);
        Self { packed: in_order::pack(&batch, keep, false), batch }
    }

    /// The script that decides it.
    pub(crate) fn script(&self) -> &'static Source {
        self.packed.script
    }

    /// The keys that the script is to declare, each once; those of logs behind all others, as they are not read whole.
    pub(crate) fn keys(&self) -> &[&'a StorageKey] {
        &self.packed.keys
    }

    /// When the first of its callers stops waiting.
    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        self.batch.first_deadline()
    }

    /// The script's argument.
    pub(crate) fn argument(&self) -> &[u8] {
        &self.packed.argument
    }

    /// What the script answered to each entry, and how many states were corrupt; `None` if it is not of its form.
    pub(crate) fn answers(&self, reply: Value) -> Option<(u64, Vec<Answer>)> {
        let Value::BulkString(packed) = reply else { return None };
        let mut reply = Reply::new(packed.as_chunks().0.iter().map(integer));
        let clock = Timestamp::from_micros(reply.number()?).ok()?;
        let corrupt = reply.number()?;
        let entries: Vec<Entry<'_>> = self.batch.entries().collect();
        let mut answers: Vec<Option<Answer>> = Vec::new();
        answers.resize_with(entries.len(), || None);
        for place in &self.packed.order {
            answers[*place] = Some(Answer::read(&mut reply, &entries[*place], clock)?);
        }
        Some((corrupt, answers.into_iter().collect::<Option<_>>()?))
    }

    /// The verdicts of these answers, one per request.
    pub(crate) fn verdicts(&self, answers: Vec<Answer>) -> Vec<Result<Verdict, BackendError>> {
        let answers = answers.into_iter().map(|answer| answer.answer).collect();
        self.batch.verdicts(answers).map(|verdict| verdict.ok_or_else(malformed)).collect()
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
    let mut argument = Writer::default();
    argument.in_order(usize::from(!is_log), &[check.quota], 0, keep);
    argument.instant(at);
    argument.double(check.cost);
    argument.double(taken.answer.now.as_micros());
    argument.double(taken.first_number);
    argument.packed()
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
