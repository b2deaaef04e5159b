//! A store's reply, number after number.

use super::{Answer, Entry};
use crate::algorithm::{Algorithm, BucketReading, CounterReading, LogReading, Reading, WindowReading};
use crate::quota::Quota;
use crate::time::Timestamp;

/// The numbers of a store's reply, one after another, each below 2^53 or -1 for none.
///
/// Of an entry there are how many of its requests were granted, and what was read for each check:
///
/// | algorithm | reading |
/// |---|---|
/// | token bucket, leaky bucket | `base`: whole us, and parts of the quota's denominator |
/// | fixed window | the deciding instant, the count |
/// | sliding window log | the deciding instant, the live entries' cost, the newest's time or -1, of a denial the time of the entry whose leaving frees enough or -1 |
/// | sliding window counter | the deciding instant, the current window's count, the previous one's |
#[derive(Clone, Debug)]
pub struct Reply<I>(I);

impl<I: Iterator<Item = i64>> Reply<I> {
    /// A reply of these numbers.
    pub fn new(numbers: impl IntoIterator<Item = i64, IntoIter = I>) -> Self {
        Self(numbers.into_iter())
    }

    /// The next number; `None` if there is none, or it is no number.
    pub fn number(&mut self) -> Option<u64> {
        u64::try_from(self.0.next()?).ok()
    }

    /// The answer to an entry; at the store's `clock` where its requests have no instant of their own. `None` if the
    /// numbers are not such.
    pub fn answer(&mut self, entry: &Entry<'_>, clock: Timestamp) -> Option<Answer> {
        let now = entry.request.instant().unwrap_or(clock);
        let granted = self.number()?;
        let checks = entry.request.checks().iter();
        let readings = checks.map(|check| self.reading(&check.quota)).collect::<Option<_>>()?;
        Some(Answer { now, granted, readings })
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
                let elapsed = deciding.checked_rem(quota.window_micros())?;
                let start = deciding.saturating_sub(elapsed);
                Reading::Counter(CounterReading::new(start, elapsed / 1_000, current, previous))
            }
        })
    }

    /// A number, or -1 for none.
    fn perhaps(&mut self) -> Option<Option<u64>> {
        let number = self.0.next()?;
        if number == -1 { Some(None) } else { u64::try_from(number).ok().map(Some) }
    }
}
