//! Quotas: how much, in which window, under which algorithm; checked when they are built.

#[cfg(feature = "serde")]
mod serde;
mod text;

pub use text::QuotaParseError;

use crate::algorithm::Algorithm;
use std::num::NonZeroU32;
use std::time::Duration;

/// A limit that can be enforced exactly: permits per window, the algorithm, and its capacity.
///
/// Built by the constructors, which return a [`QuotaBuilder`], or parsed from text; what cannot be computed
/// exactly in integers below 2^53 on every store is refused then, and only that.
///
/// # Examples
/// One hundred a minute, at most twenty of them at once:
/// ```
/// use limiter_core::Quota;
///
/// let quota = Quota::per_minute(100).burst(20).build()?;
/// assert_eq!(quota.to_string(), "100/minute burst 20");
/// assert_eq!(quota, "100/minute burst 20".parse()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    algorithm: Algorithm,
    limit: u64,
    window: u64,
    capacity: u64,
    interval: Span,
    denominator: u64,
}

/// A length of time, `whole + rem / denominator` us, where the [`Quota`] holds the denominator.
///
/// The exact form of what a permit costs: three a second are 333,333 us and one third each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    /// Whole microseconds.
    pub(crate) whole: u64,
    /// What is left, in parts of the denominator; below it.
    pub(crate) rem: u64,
}

impl Span {
    #[inline]
    pub(crate) fn plus(self, other: Self, denominator: u64) -> Self {
        let rem = self.rem.saturating_add(other.rem);
        let whole = self.whole.saturating_add(other.whole);
        match rem.checked_sub(denominator) {
            Some(rem) => Self { whole: whole.saturating_add(1), rem },
            None => Self { whole, rem },
        }
    }

    /// The difference, zero where `other` is the longer.
    #[inline]
    pub(crate) fn minus(self, other: Self, denominator: u64) -> Self {
        match (self.whole.checked_sub(other.whole), self.rem.checked_sub(other.rem)) {
            (Some(whole), Some(rem)) => Self { whole, rem },
            (Some(whole @ 1..), None) => Self {
                whole: whole.saturating_sub(1),
                rem: self.rem.saturating_add(denominator).saturating_sub(other.rem),
            },
            _ => Self::default(),
        }
    }

    /// Rounded up to whole microseconds.
    pub(crate) fn ceil(self) -> u64 {
        self.whole.saturating_add(u64::from(self.rem > 0))
    }
}

/// Why a quota was refused: what was asked, and the bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuotaError {
    /// A limit of zero admits nothing, ever.
    #[error("limit 0 is below the least one, 1")]
    ZeroLimit,
    /// A burst of zero admits nothing, ever.
    #[error("burst 0 is below the least one, 1")]
    ZeroBurst,
    /// The window is shorter than a millisecond.
    #[error("window {0:?} is shorter than 1ms")]
    WindowTooShort(Duration),
    /// The window is longer than [`Quota::MAX_WINDOW`].
    #[error("window {0:?} is longer than {max:?}", max = Quota::MAX_WINDOW)]
    WindowTooLong(Duration),
    /// The window has a part of a millisecond.
    #[error("window {0:?} is not a whole number of milliseconds")]
    WindowNotWholeMillis(Duration),
    /// A window algorithm has no burst of its own.
    #[error("burst {burst} on {algorithm}, which has none: only token-bucket and leaky-bucket do")]
    BurstOnWindow {
        /// The burst that was asked.
        burst: u64,
        /// The algorithm that was asked.
        algorithm: Algorithm,
    },
    /// A count this high would leave the integers that every store computes with.
    #[error("limit {limit} on {algorithm} is above {max}, the highest for this window")]
    LimitTooHigh {
        /// The limit that was asked.
        limit: u64,
        /// The algorithm that was asked.
        algorithm: Algorithm,
        /// The highest limit that is accepted.
        max: u64,
    },
    /// The bucket's capacity is too high for exact arithmetic at this rate.
    #[error(
        "a bucket of {burst} at {limit} per {window:?} is above {max}, the highest that is exact at this rate \
         (a limit and window with a larger common factor allow more)"
    )]
    BurstTooHigh {
        /// The burst that was asked, or the limit where it is the burst.
        burst: u64,
        /// The limit that was asked.
        limit: u64,
        /// The window that was asked.
        window: Duration,
        /// The highest burst that is accepted.
        max: u64,
    },
    /// This store cannot keep such a quota.
    #[error("{store} cannot keep {quota}: {reason}")]
    Store {
        /// The store's name.
        store: &'static str,
        /// The quota in its text form.
        quota: String,
        /// What stands against it.
        reason: String,
    },
    /// The text is no quota.
    #[error(transparent)]
    Parse(#[from] QuotaParseError),
}

impl From<std::convert::Infallible> for QuotaError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// A quota as words, for a cell that is read without a lock.
pub(crate) type Words = [u64; Quota::WORDS];

/// Every integer below this is exact in a double, the number of a store's script.
const EXACT: u64 = 1 << 53;

impl Quota {
    /// The longest window: 2^50 us, nearly 36 years.
    pub const MAX_WINDOW: Duration = Duration::from_micros(1 << 50);

    /// The highest limit of a sliding window log, which remembers every admission in the window.
    pub const MAX_LOG_LIMIT: u64 = 100_000;

    /// `limit` permits per `window`.
    #[expect(
        clippy::new_ret_no_self,
        reason = "a quota is checked whole, once burst and algorithm are known"
    )]
    pub const fn new(limit: u64, window: Duration) -> QuotaBuilder {
        QuotaBuilder { limit, window, burst: None, algorithm: Algorithm::TokenBucket }
    }

    /// `limit` permits per second.
    pub const fn per_second(limit: u64) -> QuotaBuilder {
        Self::new(limit, Duration::from_secs(1))
    }

    /// `limit` permits per minute.
    pub const fn per_minute(limit: u64) -> QuotaBuilder {
        Self::new(limit, Duration::from_secs(60))
    }

    /// `limit` permits per hour.
    pub const fn per_hour(limit: u64) -> QuotaBuilder {
        Self::new(limit, Duration::from_secs(3_600))
    }

    /// `limit` permits per day of 24 hours.
    pub const fn per_day(limit: u64) -> QuotaBuilder {
        Self::new(limit, Duration::from_secs(86_400))
    }

    /// The algorithm that enforces it.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Permits per window.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// The window.
    #[must_use]
    pub const fn window(&self) -> Duration {
        Duration::from_micros(self.window)
    }

    /// The most that can be taken at once: the burst of a bucket, the limit of a window.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// What a bucket's permit takes to refill, `whole + rem / l` us, as `[whole, rem, l]`; `W / L` in lowest terms.
    /// Zero for the window algorithms. For stores that restate the arithmetic.
    #[must_use]
    pub const fn interval_parts(&self) -> [u64; 3] {
        [self.interval.whole, self.interval.rem, self.denominator]
    }

    /// What an empty bucket takes to fill, `whole + rem / l` us, as `[whole, rem]`. Zero for the window algorithms.
    #[must_use]
    pub fn filling_parts(&self) -> [u64; 2] {
        let filling = self.filling();
        [filling.whole, filling.rem]
    }

    pub(crate) const fn window_micros(&self) -> u64 {
        self.window
    }

    /// How many [`Words`] a quota is.
    pub(crate) const WORDS: usize = 7;

    #[inline]
    pub(crate) const fn to_words(self) -> Words {
        let Self { algorithm, limit, window, capacity, interval, denominator } = self;
        let algorithm = algorithm as u64;
        [algorithm, limit, window, capacity, interval.whole, interval.rem, denominator]
    }

    /// The quota whose words these are.
    #[inline]
    pub(crate) fn from_words(words: Words) -> Self {
        let [algorithm, limit, window, capacity, i_whole, i_rem, denominator] = words;
        Self {
            algorithm: Algorithm::from_word(algorithm),
            limit,
            window,
            capacity,
            interval: Span { whole: i_whole, rem: i_rem },
            denominator,
        }
    }

    /// The time a bucket takes to refill `cost` permits; `cost` is at most the capacity.
    #[inline]
    pub(crate) fn refill(&self, cost: u64) -> Span {
        if cost == 1 {
            return self.interval;
        }
        if self.denominator == 1 {
            return Span { whole: self.interval.whole.saturating_mul(cost), rem: 0 };
        }
        let parts = self.interval.rem.saturating_mul(cost);
        let whole = self.interval.whole.saturating_mul(cost);
        match (parts.checked_div(self.denominator), parts.checked_rem(self.denominator)) {
            (Some(carried), Some(rem)) => Span { whole: whole.saturating_add(carried), rem },
            _ => Span { whole, rem: 0 },
        }
    }

    /// The whole permits that a bucket refills in `span`.
    #[inline]
    pub(crate) fn permits_in(&self, span: Span) -> u64 {
        let narrow = |span: Span| span.whole.checked_mul(self.denominator)?.checked_add(span.rem);
        match (narrow(span), narrow(self.interval)) {
            (Some(parts), Some(permit)) => parts.checked_div(permit).unwrap_or(0),
            _ => {
                let wide = |s: Span| {
                    u128::from(s.whole).saturating_mul(self.denominator.into()).saturating_add(s.rem.into())
                };
                let permits = wide(span).checked_div(wide(self.interval)).unwrap_or(0);
                u64::try_from(permits).unwrap_or(u64::MAX)
            }
        }
    }

    /// The same quota, where the denominator is 1: no span has a remainder, which the compiler cannot know.
    #[inline]
    pub(crate) fn in_whole(&self) -> Self {
        let whole = |span: Span| Span { whole: span.whole, rem: 0 };
        Self { interval: whole(self.interval), denominator: 1, ..*self }
    }

    /// What one of so many instances holds that keep it apart from each other: of a bucket `L / (W * N)` and
    /// `ceil(B / N)`, of a window `ceil(L / N)`. A bucket whose share takes longer to fill than 2^50 us gets less.
    #[inline]
    pub(crate) fn share(&self, instances: NonZeroU32) -> Self {
        match u64::from(instances.get()) {
            1 => *self,
            n => self.part(n),
        }
    }

    fn part(&self, n: u64) -> Self {
        let capacity = self.capacity.div_ceil(n);
        if self.interval == Span::default() {
            return Self { limit: capacity, capacity, ..*self };
        }
        // In lowest terms again, as `w` and `l` have no common factor.
        let common = gcd(n, self.denominator);
        let l = self.denominator / common;
        let wide = |span: Span| u128::from(span.whole) * u128::from(self.denominator) + u128::from(span.rem);
        let w = wide(self.interval) * u128::from(n / common);
        let window = self.window.saturating_mul(n);
        let longest = 1 << 50;
        let (w, in_time) = match (u64::try_from(w), u128::from(l) * u128::from(longest) / w) {
            (Ok(w), in_time @ 1..) => (w, u64::try_from(in_time).unwrap_or(u64::MAX)),
            // A permit takes longer than a process lives: one.
            _ => {
                let interval = Span { whole: longest, rem: 0 };
                return Self { window, capacity: 1, interval, denominator: 1, ..*self };
            }
        };
        let (capacity, interval) = (capacity.min(in_time), Span { whole: w / l, rem: w % l });
        Self { window, capacity, interval, denominator: l, ..*self }
    }

    /// The time an empty bucket takes to fill.
    #[inline]
    pub(crate) fn filling(&self) -> Span {
        self.refill(self.capacity)
    }

    /// The denominator of every [`Span`] of this quota.
    pub(crate) const fn denominator(&self) -> u64 {
        self.denominator
    }
}

impl std::fmt::Debug for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Quota({self})")
    }
}

/// A [`Quota`] in the making; [`build`](Self::build) checks it.
///
/// Whatever takes a quota takes a builder too, and checks it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a quota is checked, and exists, once it is built"]
pub struct QuotaBuilder {
    limit: u64,
    window: Duration,
    burst: Option<u64>,
    algorithm: Algorithm,
}

impl QuotaBuilder {
    /// How many permits can be taken at once, for the bucket algorithms; by default the limit.
    pub const fn burst(mut self, permits: u64) -> Self {
        self.burst = Some(permits);
        self
    }

    /// The algorithm; by default [`Algorithm::TokenBucket`].
    pub const fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// The quota, checked.
    ///
    /// # Errors
    /// The first bound that is broken, with the value that breaks it.
    pub fn build(self) -> Result<Quota, QuotaError> {
        let window = self.window_micros()?;
        if self.limit == 0 {
            return Err(QuotaError::ZeroLimit);
        }
        match self.algorithm {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => self.build_bucket(window),
            // A count and a cost are added, each at most the limit.
            Algorithm::FixedWindow => self.build_window(window, (EXACT - 1) / 2),
            Algorithm::SlidingLog => self.build_window(window, Quota::MAX_LOG_LIMIT),
            Algorithm::SlidingCounter => self.build_window(window, (EXACT - 1) / (window / 1_000)),
        }
    }

    fn window_micros(&self) -> Result<u64, QuotaError> {
        if self.window < Duration::from_millis(1) {
            return Err(QuotaError::WindowTooShort(self.window));
        }
        if self.window > Quota::MAX_WINDOW {
            return Err(QuotaError::WindowTooLong(self.window));
        }
        if !self.window.subsec_nanos().is_multiple_of(1_000_000) {
            return Err(QuotaError::WindowNotWholeMillis(self.window));
        }
        u64::try_from(self.window.as_micros()).map_err(|_| QuotaError::WindowTooLong(self.window))
    }

    fn build_window(self, window: u64, max: u64) -> Result<Quota, QuotaError> {
        let Self { limit, algorithm, .. } = self;
        if let Some(burst) = self.burst {
            return Err(QuotaError::BurstOnWindow { burst, algorithm });
        }
        if limit > max {
            return Err(QuotaError::LimitTooHigh { limit, algorithm, max });
        }
        Ok(Quota { algorithm, limit, window, capacity: limit, interval: Span::default(), denominator: 1 })
    }

    /// A permit costs `window / limit` us, `w / l` in lowest terms. Exact below 2^53 while
    /// `(burst + 1) * l < 2^53` and `burst * w / l <= 2^50` us.
    fn build_bucket(self, window: u64) -> Result<Quota, QuotaError> {
        let Self { limit, algorithm, .. } = self;
        let burst = self.burst.unwrap_or(limit);
        if burst == 0 {
            return Err(QuotaError::ZeroBurst);
        }
        let common = gcd(window, limit);
        let (w, l) = (window / common, limit / common);
        let exact = ((EXACT - 1) / l).saturating_sub(1);
        let in_time = (1_u128 << 50) * u128::from(l) / u128::from(w);
        let max = exact.min(u64::try_from(in_time).unwrap_or(u64::MAX));
        if burst > max {
            return Err(QuotaError::BurstTooHigh { burst, limit, window: self.window, max });
        }
        let interval = Span { whole: w / l, rem: w % l };
        Ok(Quota { algorithm, limit, window, capacity: burst, interval, denominator: l })
    }
}

impl TryFrom<QuotaBuilder> for Quota {
    type Error = QuotaError;

    fn try_from(builder: QuotaBuilder) -> Result<Self, QuotaError> {
        builder.build()
    }
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(text: &str, instances: u32) -> Quota {
        let quota: Quota = text.parse().unwrap();
        quota.share(NonZeroU32::new(instances).unwrap())
    }

    /// What the builder makes of the same numbers, where it can.
    #[test]
    fn a_share_is_the_quota_of_that_rate() {
        let built = |text: &str| text.parse::<Quota>().unwrap();
        assert_eq!(share("100/minute", 1), built("100/minute"));
        assert_eq!(share("100/minute", 4), built("100/4m burst 25"));
        assert_eq!(share("10/s burst 7", 3), built("10/3s burst 3"));
        assert_eq!(share("7/13s leaky-bucket", 7), built("7/91s burst 1 leaky-bucket"));
        assert_eq!(share("1000003/day burst 5", 12), built("1000003/12d burst 1"));
        assert_eq!(share("10/s fixed-window", 4), built("3/s fixed-window"));
        assert_eq!(share("1/s sliding-log", 1_000), built("1/s sliding-log"));
        assert_eq!(share("101/m sliding-counter", 10), built("11/m sliding-counter"));
    }

    /// Nothing overflows, and the bound on the time to fill holds.
    #[test]
    fn a_share_of_an_extreme_quota_is_one() {
        let longest = Quota::new(1, Duration::from_secs((1 << 50) / 1_000_000)).build().unwrap();
        let widest = Quota::new((1 << 53) - 2, Duration::from_millis(1)).burst(1).build();
        let years = Quota::new(1_000, Duration::from_secs(365 * 86_400)).build().unwrap();
        for quota in [Some(longest), widest.ok(), Some(years)].into_iter().flatten() {
            for instances in [2, 3, 40, 1_000, u32::MAX] {
                let share = quota.share(NonZeroU32::new(instances).unwrap());
                assert!(share.filling().ceil() <= 1 << 50, "{quota} of {instances}: {:?}", share.filling());
                assert!((1..=quota.capacity).contains(&share.capacity));
                assert!((share.capacity + 1) * share.denominator < EXACT);
                assert_eq!(share.filling(), share.refill(share.capacity));
            }
        }
    }
}
