//! The text form of a quota, both ways: `100/minute burst 20 leaky-bucket`.

use super::{Quota, QuotaBuilder, QuotaError};
use crate::algorithm::Algorithm;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Text that is no quota, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no quota: {problem}; a quota reads like \"100/minute\" or \"5 per 10s burst 20 leaky-bucket\""
)]
pub struct QuotaParseError {
    text: String,
    problem: String,
}

/// Milliseconds and names of a unit of time; the first name is printed alone, the second after a number.
struct Unit {
    millis: u64,
    names: &'static [&'static str],
}

/// From the longest. Months and years have no fixed length, and parts of a millisecond no window.
const UNITS: [Unit; 5] = [
    Unit { millis: 86_400_000, names: &["day", "d", "days"] },
    Unit { millis: 3_600_000, names: &["hour", "h", "hours", "hr", "hrs"] },
    Unit { millis: 60_000, names: &["minute", "m", "minutes", "min", "mins"] },
    Unit { millis: 1_000, names: &["second", "s", "seconds", "sec", "secs"] },
    Unit { millis: 1, names: &["millisecond", "ms", "milliseconds", "millis"] },
];

impl fmt::Display for Quota {
    /// The one canonical form, which parses back to an equal quota.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.limit())?;
        write_window(self.window(), f)?;
        if self.capacity() != self.limit() {
            write!(f, " burst {}", self.capacity())?;
        }
        if self.algorithm() != Algorithm::default() {
            write!(f, " {}", self.algorithm())?;
        }
        Ok(())
    }
}

/// `minute` for exactly one unit, else every unit that is not zero: `1h30m`.
fn write_window(window: Duration, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut millis = window.as_millis();
    for Unit { millis: unit, names } in &UNITS {
        let (count, rest) = (millis / u128::from(*unit), millis % u128::from(*unit));
        if count == 1 && rest == 0 && millis == window.as_millis() {
            return f.write_str(names[0]);
        }
        if count > 0 {
            write!(f, "{count}{}", names[1])?;
        }
        millis = rest;
    }
    Ok(())
}

impl FromStr for Quota {
    type Err = QuotaError;

    /// `100/minute`, `10/s`, `10r/s`, `5 per 10s`, `1000/1h30m`; then, in any order, `burst 20` and an
    /// algorithm's name. Spaces around the separator and between the words are free.
    fn from_str(text: &str) -> Result<Self, QuotaError> {
        parse(text)
            .map_err(|problem| QuotaError::Parse(QuotaParseError { text: text.to_owned(), problem }))?
            .build()
    }
}

impl TryFrom<String> for Quota {
    type Error = QuotaError;

    fn try_from(text: String) -> Result<Self, QuotaError> {
        text.parse()
    }
}

impl TryFrom<&String> for Quota {
    type Error = QuotaError;

    fn try_from(text: &String) -> Result<Self, QuotaError> {
        text.parse()
    }
}

impl TryFrom<&str> for Quota {
    type Error = QuotaError;

    fn try_from(text: &str) -> Result<Self, QuotaError> {
        text.parse()
    }
}

fn parse(text: &str) -> Result<QuotaBuilder, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (limit, rest) = text.split_at(digits);
    let limit = number(limit)?;
    let rest = rest.trim_start();
    let rest = match rest.strip_prefix("per").filter(|rest| rest.starts_with(char::is_whitespace)) {
        Some(rest) => rest,
        None => rest
            .strip_prefix('r')
            .unwrap_or(rest)
            .trim_start()
            .strip_prefix('/')
            .ok_or("the limit is not followed by \"/\" or \"per\"")?,
    };
    let mut words = rest.split_whitespace();
    let window = words.next().ok_or("the window is missing")?;
    let mut quota = Quota::new(limit, parse_window(window)?);
    let (mut burst, mut algorithm) = (None, None);
    while let Some(word) = words.next() {
        let twice = if word == "burst" {
            let permits = words.next().ok_or("\"burst\" is not followed by a number")?;
            burst.replace(number(permits)?).is_some()
        } else {
            algorithm.replace(word.parse::<Algorithm>().map_err(|e| e.to_string())?).is_some()
        };
        if twice {
            return Err(format!("{word:?} says a second time what was said"));
        }
    }
    if let Some(burst) = burst {
        quota = quota.burst(burst);
    }
    Ok(quota.algorithm(algorithm.unwrap_or_default()))
}

fn number(digits: &str) -> Result<u64, String> {
    if digits.is_empty() {
        return Err("the limit is missing".to_owned());
    }
    if digits.contains(|c: char| !c.is_ascii_digit()) {
        return Err(format!("{digits:?} is no whole number"));
    }
    digits.parse().map_err(|_| format!("{digits} is above {}, the highest number there is", u64::MAX))
}

/// `minute`, `10s`, `1h30m`.
pub(super) fn parse_window(text: &str) -> Result<Duration, String> {
    let unit_named = |name: &str| {
        UNITS.iter().find(|unit| unit.names.contains(&name)).ok_or_else(|| {
            format!("{name:?} is no unit of time: day, hour, minute, second or millisecond (d, h, m, s, ms)")
        })
    };
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(Duration::from_millis(unit_named(text)?.millis));
    }
    let too_long = || format!("{text:?} is longer than {:?}", Quota::MAX_WINDOW);
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (count, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (name, tail) = tail.split_at(letters);
        let unit = unit_named(name)?;
        let count: u64 = count.parse().map_err(|_| too_long())?;
        total = count.checked_mul(unit.millis).and_then(|t| total.checked_add(t)).ok_or_else(too_long)?;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}
