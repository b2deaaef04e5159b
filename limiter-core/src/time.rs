//! Instants: whole microseconds since the Unix epoch, and the one place where the process reads its clock.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An instant: whole microseconds since the Unix epoch, at most [`Timestamp::MAX`].
///
/// # Example: virtual time
/// ```
/// use limiter_core::Timestamp;
/// use std::time::Duration;
///
/// let t = Timestamp::from_micros(1_000_000)?;
/// assert_eq!((t + Duration::from_millis(2)).as_micros(), 1_002_000);
/// # Ok::<(), limiter_core::TimestampError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// An instant past [`Timestamp::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("instant {0} us is past the last one, {max} us", max = Timestamp::MAX.0)]
pub struct TimestampError(u64);

impl Timestamp {
    /// The last instant, in the year 2184: an instant plus any wait stays below 2^53 us, which a double
    /// holds exactly, so that every store can compute with it.
    pub const MAX: Self = Self((1 << 53) - (1 << 51) - 1);

    /// The instant `micros` after the Unix epoch.
    ///
    /// # Errors
    /// `micros` is past [`Timestamp::MAX`].
    pub const fn from_micros(micros: u64) -> Result<Self, TimestampError> {
        if micros > Self::MAX.0 { Err(TimestampError(micros)) } else { Ok(Self(micros)) }
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// This process's instant: the wall clock as it stood when first asked, carried on by the monotonic
    /// clock, so that it never steps. It drifts from the wall clock by millionths, and by what the wall clock is set
    /// or the machine sleeps after that.
    #[must_use]
    pub fn now() -> Self {
        let anchor = &*ANCHOR;
        let elapsed = anchor.clock.delta_as_nanos(anchor.start, anchor.clock.raw()) / 1_000;
        Self(anchor.wall.saturating_add(elapsed).min(Self::MAX.0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    /// Whole microseconds later, at most [`Timestamp::MAX`].
    fn add(self, later: Duration) -> Self {
        let micros = u64::try_from(later.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros).min(Self::MAX.0))
    }
}

/// Something that is done now and then, by whoever comes by.
#[derive(Default)]
pub(crate) struct Every {
    /// Not before that instant.
    next: AtomicU64,
}

impl Every {
    /// Whether it is to be done now, by the caller alone.
    #[inline]
    pub(crate) fn is_due(&self, pause: Duration, now: Timestamp) -> bool {
        let next = self.next.load(Ordering::Relaxed);
        if now.as_micros() < next {
            return false;
        }
        let later = (now + pause).as_micros();
        self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Wall clock and monotonic clock, read together once. `std`'s clocks cost two thirds of an in-process
/// decision, hence quanta, which reads the processor's counter.
struct Anchor {
    clock: quanta::Clock,
    start: u64,
    wall: u64,
}

static ANCHOR: LazyLock<Anchor> = LazyLock::new(|| {
    let clock = quanta::Clock::new();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    Anchor { start: clock.raw(), wall: u64::try_from(wall).unwrap_or(u64::MAX), clock }
});
