//! Traffic to replay: who asks when. Made traces are functions of the quota and a seed.

use super::metrics::Slots;
use crate::random::Random;
use std::ops::Range;
use std::time::Duration;

/// A request for one permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    /// Us since the Unix epoch.
    pub at: u64,
    /// Whose, as an index.
    pub key: usize,
}

/// Requests in the order of their instants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What it is called.
    pub name: String,
    /// What kind of traffic it is, in a sentence.
    pub about: String,
    /// Keys, each an index below this.
    pub keys: usize,
    /// The requests, ascending.
    pub arrivals: Vec<Arrival>,
    /// The part that the report draws, in us since the epoch.
    pub drawn: Range<u64>,
}

/// In how many slots the report draws, at most.
const DRAWN_SLOTS: u64 = 120;

/// An instant of November 2026 that is the start of an aligned window of any length that divides a day.
const MIDNIGHT: u64 = 1_795_478_400_000_000;

impl Trace {
    /// Of arrivals in any order; drawn as a whole.
    #[must_use]
    pub fn new(name: &str, about: &str, keys: usize, mut arrivals: Vec<Arrival>) -> Self {
        arrivals.sort_unstable();
        let (start, end) = (arrivals.first().map_or(0, |a| a.at), arrivals.last().map_or(0, |a| a.at + 1));
        Self { name: name.to_owned(), about: about.to_owned(), keys, arrivals, drawn: start..end }
    }

    /// The five made ones, for a limit in a window.
    #[must_use]
    pub fn made(limit: u64, window: Duration) -> [Self; 5] {
        let make = Made { limit, window: u64::try_from(window.as_micros()).unwrap_or(u64::MAX) };
        [make.steady(), make.bursty(), make.boundary(), make.diurnal(), make.adversarial()]
    }

    /// The first instant.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.arrivals.first().map_or(0, |arrival| arrival.at)
    }

    /// Just after the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.arrivals.last().map_or(0, |arrival| arrival.at + 1)
    }

    /// The instants of each key's requests.
    #[must_use]
    pub fn by_key(&self) -> Vec<Vec<u64>> {
        let mut times = vec![Vec::new(); self.keys];
        for arrival in &self.arrivals {
            times[arrival.key].push(arrival.at);
        }
        times
    }

    /// The trace in slots of this length.
    #[must_use]
    pub fn slots(&self, width: u64) -> Slots {
        Slots { from: self.start(), to: self.end(), width: width.max(1) }
    }

    /// The drawn part, in slots.
    #[must_use]
    pub fn shown(&self) -> Slots {
        let Range { start: from, end: to } = self.drawn;
        Slots { from, to, width: (to - from).div_ceil(DRAWN_SLOTS).max(1) }
    }
}

/// Makes traces of one key.
struct Made {
    limit: u64,
    window: u64,
}

impl Made {
    /// A trace of instants in windows since midnight, of which the windows of this range are drawn.
    fn trace(&self, name: &str, about: &str, windows: &[f64], drawn: Range<f64>) -> Trace {
        let arrivals = windows.iter().map(|at| Arrival { at: MIDNIGHT + self.micros(*at), key: 0 }).collect();
        let drawn = MIDNIGHT + self.micros(drawn.start)..MIDNIGHT + self.micros(drawn.end);
        Trace { drawn, ..Trace::new(name, about, 1, arrivals) }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "traces are days long at most"
    )]
    fn micros(&self, windows: f64) -> u64 {
        (windows * crate::float(self.window)) as u64
    }

    fn limit(&self) -> f64 {
        crate::float(self.limit)
    }

    /// Half as much again as the limit, evenly but for a jitter of a fifth of the distance.
    fn steady(&self) -> Trace {
        let mut random = Random::new(1);
        let spacing = 1.0 / (1.5 * self.limit());
        let times: Vec<f64> =
            (0..self.limit * 90).map(|i| (crate::float(i) + 0.4 * random.unit()) * spacing).collect();
        self.trace("steady", "1.5 times the limit, evenly, for 60 windows", &times, 0.0..4.0)
    }

    /// On and off: rests of two windows and bursts of half a window on average, at six times the rate of the limit.
    fn bursty(&self) -> Trace {
        let mut random = Random::new(2);
        let (mut now, mut times) = (0.0, Vec::new());
        while now < 120.0 {
            now += random.exponential(2.0);
            let end = now + random.exponential(0.5);
            while now < end {
                times.push(now);
                now += random.exponential(1.0 / (6.0 * self.limit()));
            }
        }
        let about =
            "bursts at 6 times the limit's rate, half a window long on average, after rests of two windows";
        self.trace("bursty", about, &times, 0.0..20.0)
    }

    /// Who knows where windows begin: all at the end of one, and as much at once after it; then rests for two.
    fn boundary(&self) -> Trace {
        let mut times = Vec::new();
        for attack in 0..20_u64 {
            let boundary = crate::float(1 + 4 * attack);
            for i in 0..self.limit {
                let offset = 0.01 * (crate::float(i) + 0.5) / self.limit();
                times.extend([boundary - 0.01 + offset, boundary + offset]);
            }
        }
        let about = "the limit in the last hundredth of a window, and again in the first hundredth of the next; \
                     every fourth window";
        self.trace("boundary attack", about, &times, 0.95..1.05)
    }

    /// A day in 480 windows: from a tenth of the limit at night to twice the limit at noon, at random instants.
    fn diurnal(&self) -> Trace {
        const DAY: f64 = 480.0;
        let mut random = Random::new(3);
        let (mut now, mut times) = (0.0, Vec::new());
        loop {
            // Thinning (Lewis and Shedler, 1979): candidates at the highest rate, of which some are taken.
            now += random.exponential(1.0 / (2.0 * self.limit()));
            if now >= DAY {
                break;
            }
            let height = 0.5 - 0.5 * (std::f64::consts::TAU * now / DAY).cos();
            if random.unit() * 2.0 < 0.1 + 1.9 * height {
                times.push(now);
            }
        }
        let about = "a day in 480 windows, from a tenth of the limit at night to twice the limit at noon";
        self.trace("diurnal", about, &times, 0.0..DAY)
    }

    /// Who knows the sliding counter, and floods: nothing, then from just before a boundary on a window and a half at
    /// twenty times the limit; then rests for two and a half.
    fn adversarial(&self) -> Trace {
        let mut random = Random::new(4);
        let mut times = Vec::new();
        for attack in 0..20_u64 {
            // A twentieth of a window is as much as the limit.
            let mut now = crate::float(2 + 5 * attack) - 0.05;
            let end = now + 1.55;
            while now < end {
                times.push(now);
                now += (0.5 + random.unit()) / (20.0 * self.limit());
            }
        }
        let about = "a flood at 20 times the limit's rate, from just before a boundary until the middle of the next \
                     window but one; every fifth window";
        self.trace("adversarial", about, &times, 1.5..4.5)
    }
}
