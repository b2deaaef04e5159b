//! The figures by which admissions are judged. Times are microseconds, in ascending order, one per permit.

/// Equal slots of a stretch of time: `[from, from + width)`, and so on up to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Where the first begins.
    pub from: u64,
    /// Where the last ends, at the earliest.
    pub to: u64,
    /// How long each is, in us; not 0.
    pub width: u64,
}

impl Slots {
    /// How many times lie in each slot; what lies outside is not counted.
    #[must_use]
    pub fn count(&self, times: &[u64]) -> Vec<u64> {
        let number = self.to.saturating_sub(self.from).div_ceil(self.width);
        let mut counts = vec![0; usize::try_from(number).unwrap_or(0)];
        for time in times.iter().filter_map(|time| time.checked_sub(self.from)) {
            let slot = usize::try_from(time / self.width).unwrap_or(usize::MAX);
            if let Some(count) = counts.get_mut(slot) {
                *count += 1;
            }
        }
        counts
    }
}

/// The most permits in any interval `[t, t + window)`, over all `t`.
///
/// Exact: where an interval holds the most, the one that begins at the first time in it holds as many, so that only the
/// times themselves are tried as beginnings. Of a limit, this is the worst overshoot: 1 is the limit itself.
#[must_use]
pub fn most_in_any_window(times: &[u64], window: u64) -> u64 {
    let mut end = 0;
    let within = |(begin, time): (usize, &u64)| {
        while times.get(end).is_some_and(|later| *later - time < window) {
            end += 1;
        }
        end - begin
    };
    times.iter().enumerate().map(within).max().unwrap_or(0) as u64
}

/// Fairness in time: Jain's index of the share that was admitted, over the slots in which something was offered.
///
/// 1: it did not matter when one asked. 1/n: everything was admitted in one of n slots. `None` where nothing was
/// admitted. Source: Jain, Chiu and Hawe, "A quantitative measure of fairness and discrimination for resource
/// allocation in shared computer systems", DEC TR-301, 1984: the square of the sum, by n times the sum of squares.
#[must_use]
pub fn fairness(offered: &[u64], admitted: &[u64], slots: Slots) -> Option<f64> {
    let (offered, admitted) = (slots.count(offered), slots.count(admitted));
    let shares = offered.iter().zip(&admitted).filter(|(offered, _)| **offered > 0);
    let shares: Vec<f64> =
        shares.map(|(offered, admitted)| crate::float(*admitted) / crate::float(*offered)).collect();
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    (squares > 0.0).then(|| sum * sum / (crate::float(shares.len() as u64) * squares))
}

/// Smoothness, as its opposite: the coefficient of variation of what started in each slot.
///
/// The standard deviation by the mean. 0: as much in each slot; the square root of (n - 1): everything in one of n.
/// Source: Cox and Lewis, "The statistical analysis of series of events", 1966.
#[must_use]
pub fn unevenness(times: &[u64], slots: Slots) -> f64 {
    let counts = slots.count(times);
    let number = crate::float(counts.len() as u64);
    let mean = counts.iter().map(|count| crate::float(*count)).sum::<f64>() / number;
    if mean > 0.0 {
        let squares = counts.iter().map(|count| (crate::float(*count) - mean).powi(2)).sum::<f64>();
        (squares / number).sqrt() / mean
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: Slots = Slots { from: 0, to: 40, width: 10 };

    #[test]
    fn windows_are_half_open_and_begin_anywhere() {
        assert_eq!(most_in_any_window(&[], 10), 0);
        assert_eq!(most_in_any_window(&[5], 10), 1);
        // 5 and 15 are never in one window of 10; 6 to 15 are.
        assert_eq!(most_in_any_window(&[5, 15], 10), 1);
        assert_eq!(most_in_any_window(&[6, 15], 10), 2);
        // The best is neither the first nor the last, and no aligned one.
        assert_eq!(most_in_any_window(&[0, 8, 9, 11, 12, 30], 10), 4);
        assert_eq!(most_in_any_window(&[7, 7, 7], 1), 3);
    }

    #[test]
    fn as_many_as_by_trying_every_beginning() {
        let mut random = crate::random::Random::new(9);
        for _ in 0..50 {
            let mut times: Vec<u64> = std::iter::repeat_with(|| random.below(200)).take(40).collect();
            times.sort_unstable();
            let from = |t: u64| times.iter().filter(|time| (t..t + 23).contains(time)).count() as u64;
            assert_eq!(most_in_any_window(&times, 23), (0..200).map(from).max().unwrap_or(0));
        }
    }

    #[test]
    fn jain_by_hand() {
        // Shares 1 and 0.5: 1.5^2 / (2 * 1.25).
        let fair = fairness(&[0, 1, 10, 11], &[0, 1, 10], SLOTS);
        assert_eq!(fair, Some(0.9));
        // One of four slots.
        assert_eq!(fairness(&[0, 10, 20, 30], &[20], SLOTS), Some(0.25));
        // Slots without an offer do not count.
        assert_eq!(fairness(&[0, 30], &[0, 30], SLOTS), Some(1.0));
        assert_eq!(fairness(&[0], &[], SLOTS), None);
    }

    #[test]
    fn variation_by_hand() {
        assert!(unevenness(&[1, 11, 21, 31], SLOTS).abs() < 1e-12);
        // 4, 0, 0, 0: the mean is 1, the deviation the root of (9 + 1 + 1 + 1) / 4.
        assert!((unevenness(&[1, 2, 3, 4], SLOTS) - 3.0_f64.sqrt()).abs() < 1e-12);
        assert!(unevenness(&[], SLOTS).abs() < 1e-12);
    }
}
