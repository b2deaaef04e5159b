//! Which key a request is about.

use crate::random::Random;
use std::sync::Arc;

/// A pattern of keys, each an index.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Where each key's share of the whole ends, from 0 to 1; empty where all shares are the same.
    ends: Arc<[f64]>,
    count: u64,
}

impl Keys {
    /// Each of so many keys as likely as any other.
    #[must_use]
    pub fn uniform(count: usize) -> Self {
        Self { ends: Arc::from([]), count: count.max(1) as u64 }
    }

    /// One hot key.
    #[must_use]
    pub fn hot() -> Self {
        Self::uniform(1)
    }

    /// The first twice as likely as the second, three times as likely as the third, and so on (Zipf's law, exponent 1).
    #[must_use]
    pub fn zipf(count: usize) -> Self {
        let harmonic = (1..=count.max(1) as u64).scan(0.0, |sum, rank| {
            *sum += 1.0 / crate::float(rank);
            Some(*sum)
        });
        let sums: Vec<f64> = harmonic.collect();
        let whole = sums.last().copied().unwrap_or(1.0);
        Self { ends: sums.iter().map(|sum| sum / whole).collect(), count: count.max(1) as u64 }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Keys without end, the same for equal seeds.
    #[must_use]
    pub fn order(&self, seed: u64) -> Order {
        Order { keys: self.clone(), random: Random::new(seed) }
    }
}

/// An endless order of keys.
#[derive(Clone, Debug)]
pub struct Order {
    keys: Keys,
    random: Random,
}

impl Order {
    /// The next one.
    pub fn next_key(&mut self) -> usize {
        if self.keys.ends.is_empty() {
            return usize::try_from(self.random.below(self.keys.count)).unwrap_or(0);
        }
        let share = self.random.unit();
        self.keys.ends.partition_point(|end| *end <= share).min(self.keys.ends.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(keys: &Keys) -> Vec<u32> {
        let mut counts = vec![0; usize::try_from(keys.count()).unwrap_or(0)];
        let mut order = keys.order(5);
        (0..100_000).for_each(|_| counts[order.next_key()] += 1);
        counts
    }

    #[test]
    fn shares_are_what_the_pattern_says() {
        assert_eq!(drawn(&Keys::hot()), [100_000]);
        for count in drawn(&Keys::uniform(10)) {
            assert!((9_500..10_500).contains(&count), "{count}");
        }
        // 6/11, 3/11 and 2/11.
        for (count, share) in drawn(&Keys::zipf(3)).into_iter().zip([54_545_u32, 27_273, 18_182]) {
            assert!(count.abs_diff(share) < 1_000, "{count}, not {share}");
        }
    }
}
