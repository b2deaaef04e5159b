//! States as a store keeps them: compact, and read with suspicion.

use crate::algorithm::{
    Algorithm, Bucket, Counter, FixedWindow, Log, Reading, SlidingCounter, SlidingLog, Step, TokenBucket,
    Window,
};
use crate::quota::Quota;
use crate::time::Timestamp;

/// What a key's algorithm keeps. Both buckets keep, read and take the same.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    Bucket(Bucket),
    Window(Window),
    Counter(Counter),
    Log(Log),
}

/// The first byte of every state: what follows is numbers, of 7 bits a byte, the lowest first, the last below 128.
///
/// - a bucket: when it is full again, and where that is no whole us, the remainder and its denominator;
/// - a window: its start and count;
/// - a counter: its start, and the counts of this window and the last;
/// - a log: how many admissions, then time and cost of each, the time of all but the first as what it is after the
///   one before.
const VERSION: u8 = 1;

/// Bytes of a number up to 2^63.
const LONGEST: usize = 9;

/// Above any instant, count or denominator that core writes.
const MOST: u64 = 1 << 53;

impl State {
    /// The state of a key that was never used.
    pub(super) fn fresh(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => Self::Bucket(Bucket::default()),
            Algorithm::FixedWindow => Self::Window(Window::default()),
            Algorithm::SlidingCounter => Self::Counter(Counter::default()),
            Algorithm::SlidingLog => Self::Log(Log::default()),
        }
    }

    pub(super) fn read(&self, quota: &Quota, cost: u64, now: Timestamp) -> Reading {
        match self {
            Self::Bucket(state) => Reading::Bucket(TokenBucket::read(state, quota, cost, now)),
            Self::Window(state) => Reading::Window(FixedWindow::read(state, quota, cost, now)),
            Self::Counter(state) => Reading::Counter(SlidingCounter::read(state, quota, cost, now)),
            Self::Log(state) => Reading::Log(SlidingLog::read(state, quota, cost, now)),
        }
    }

    /// Takes `cost`, which was admitted on this reading.
    pub(super) fn take(&mut self, reading: &Reading, quota: &Quota, cost: u64) {
        match (self, reading) {
            (Self::Bucket(state), Reading::Bucket(reading)) => TokenBucket::take(state, reading, quota, cost),
            (Self::Window(state), Reading::Window(reading)) => FixedWindow::take(state, reading, quota, cost),
            (Self::Counter(state), Reading::Counter(reading)) => {
                SlidingCounter::take(state, reading, quota, cost);
            }
            (Self::Log(state), Reading::Log(reading)) => SlidingLog::take(state, reading, quota, cost),
            _ => {}
        }
    }

    pub(super) fn give_back(
        &mut self,
        quota: &Quota,
        cost: u64,
        taken: &Reading,
        at: Timestamp,
        now: Timestamp,
    ) {
        match (self, taken) {
            (Self::Bucket(state), Reading::Bucket(taken)) => {
                TokenBucket::give_back(state, quota, cost, taken, at, now);
            }
            (Self::Window(state), Reading::Window(taken)) => {
                FixedWindow::give_back(state, quota, cost, taken, at, now);
            }
            (Self::Counter(state), Reading::Counter(taken)) => {
                SlidingCounter::give_back(state, quota, cost, taken, at, now);
            }
            (Self::Log(state), Reading::Log(taken)) => {
                SlidingLog::give_back(state, quota, cost, taken, at, now);
            }
            _ => {}
        }
    }

    /// Whether it is cheap to remember: of a fixed size, or not much larger.
    pub(super) fn is_small(&self) -> bool {
        !matches!(self, Self::Log(log) if log.len() > 16)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        match self {
            Self::Bucket(bucket) => match bucket.parts() {
                (whole, 0, _) => put(&mut bytes, [whole]),
                (whole, rem, denominator) => put(&mut bytes, [whole, rem, denominator]),
            },
            Self::Window(window) => {
                let (start, count) = window.parts();
                put(&mut bytes, [start, count]);
            }
            Self::Counter(counter) => {
                let (start, current, previous) = counter.parts();
                put(&mut bytes, [start, current, previous]);
            }
            Self::Log(log) => {
                put(&mut bytes, [log.len() as u64]);
                let mut before = 0;
                for (time, cost) in log.admissions() {
                    put(&mut bytes, [time.saturating_sub(before), cost]);
                    before = time;
                }
            }
        }
        bytes
    }

    /// The state that these bytes are; `None` if they are none that [`encode`](Self::encode) writes.
    pub(super) fn decode(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        let (&VERSION, mut rest) = bytes.split_first()? else { return None };
        let state = match algorithm {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => {
                let whole = get(&mut rest)?;
                let (rem, denominator) =
                    if rest.is_empty() { (0, 1) } else { (get(&mut rest)?, get(&mut rest)?) };
                (rem < denominator && (rem > 0 || denominator == 1)).then_some(())?;
                Self::Bucket(Bucket::new(whole, rem, denominator))
            }
            Algorithm::FixedWindow => Self::Window(Window::new(get(&mut rest)?, get(&mut rest)?)),
            Algorithm::SlidingCounter => {
                Self::Counter(Counter::new(get(&mut rest)?, get(&mut rest)?, get(&mut rest)?))
            }
            Algorithm::SlidingLog => Self::Log(log(&mut rest)?),
        };
        rest.is_empty().then_some(state)
    }

    /// The most bytes that [`encode`](Self::encode) gives under a quota.
    pub(super) fn most_bytes(quota: &Quota) -> u64 {
        let numbers = |count: usize| (1 + count * LONGEST) as u64;
        match quota.algorithm() {
            Algorithm::TokenBucket | Algorithm::LeakyBucket | Algorithm::SlidingCounter => numbers(3),
            Algorithm::FixedWindow => numbers(2),
            Algorithm::SlidingLog => {
                // Costs add up to the limit, and a cost is never shorter than its bytes. Times between admissions add
                // up to the window, so that few can be long: at most so many of a window have more than `k` bytes.
                let entries = quota.limit();
                let longer_than = |k: usize| entries.min(quota.window_micros() >> (7 * k));
                let times = (1..LONGEST).map(longer_than).fold(entries, u64::saturating_add);
                numbers(2).saturating_add(entries).saturating_add(times)
            }
        }
    }
}

fn log(rest: &mut &[u8]) -> Option<Log> {
    let count = usize::try_from(get(rest)?).ok()?;
    // Each admission has two bytes at least: a count that is none allocates nothing.
    (count <= rest.len() / 2).then_some(())?;
    let mut admissions = Vec::with_capacity(count);
    let (mut time, mut total) = (0, 0);
    for i in 0..count {
        let (later, cost) = (get(rest)?, get(rest)?);
        (cost > 0 && (later > 0 || i == 0)).then_some(())?;
        time += later;
        total += cost;
        (time < MOST && total < MOST).then_some(())?;
        admissions.push((time, cost));
    }
    Some(Log::new(admissions))
}

fn put<const N: usize>(bytes: &mut Vec<u8>, numbers: [u64; N]) {
    for mut number in numbers {
        while number >= 0x80 {
            bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        bytes.push(number.to_le_bytes()[0]);
    }
}

/// The next number, which is below [`MOST`] and as short as it can be.
fn get(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for place in 0..LONGEST {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return (number < MOST && (byte > 0 || place == 0)).then_some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(text: &str) -> Quota {
        text.parse().unwrap()
    }

    fn used(text: &str, costs: &[(u64, u64)]) -> (Quota, State) {
        let quota = quota(text);
        let mut state = State::fresh(quota.algorithm());
        for (micros, cost) in costs {
            let now = Timestamp::from_micros(1_795_465_002_435_613 + micros).unwrap();
            let reading = state.read(&quota, *cost, now);
            assert!(reading.decide(&quota, *cost, now).unwrap().allowed);
            state.take(&reading, &quota, *cost);
        }
        (quota, state)
    }

    #[test]
    fn what_is_written_is_read() {
        for (text, bytes) in [
            ("5/minute", 9),
            ("7/s", 11),
            ("7/s leaky-bucket", 11),
            ("5/minute fixed-window", 10),
            ("5/minute sliding-counter", 11),
            ("5/minute sliding-log", 14),
        ] {
            let (quota, state) = used(text, &[(0, 1), (5_000, 2)]);
            let encoded = state.encode();
            assert_eq!(encoded.len(), bytes, "{text}: {encoded:?}");
            assert_eq!(State::decode(quota.algorithm(), &encoded), Some(state), "{text}");
        }
    }

    /// Nothing of it panics, what is cut or continued is no state, and what is read is what would be written.
    #[test]
    fn other_bytes_are_no_state() {
        let mut rng = fastrand::Rng::with_seed(7);
        for text in ["7/s", "5/minute fixed-window", "5/minute sliding-counter", "5/minute sliding-log"] {
            let (quota, state) = used(text, &[(0, 1), (5_000, 2), (5_001, 1)]);
            let encoded = state.encode();
            for length in 0..encoded.len() {
                let cut = State::decode(quota.algorithm(), &encoded[..length]);
                // The whole us of a bucket are a bucket.
                assert!(cut.is_none() || (text == "7/s" && length == 9), "{text}: {length}");
            }
            assert_eq!(State::decode(quota.algorithm(), &[&encoded[..], &[1]].concat()), None, "{text}");
            for _ in 0..100_000 {
                let mut bytes = encoded.clone();
                let place = rng.usize(..bytes.len());
                bytes[place] = rng.u8(..);
                if let Some(read) = State::decode(quota.algorithm(), &bytes) {
                    assert_eq!(read.encode(), bytes, "{text}");
                }
            }
        }
    }

    #[test]
    fn no_log_is_longer_than_is_said() {
        for (text, apart) in [
            ("100/s sliding-log", 10_000),
            ("1000/300days sliding-log", 25_920_000_000),
            ("100000/day sliding-log", 864_000),
            ("100000/s sliding-log", 9),
        ] {
            let quota = quota(text);
            let entries = (0..quota.limit()).map(|i| (1_795_465_002_435_613 + i * apart, 1));
            let length = State::Log(Log::new(entries)).encode().len() as u64;
            let most = State::most_bytes(&quota);
            assert!(length <= most && most <= 2 * length, "{text}: {length} of {most}");
        }
    }
}
