//! Packing numbers for a script.

use super::Keep;
use limiter_core::{Algorithm, Check, Quota, Timestamp};
use std::time::Duration;

/// The quotas of a batch, each once.
#[derive(Default)]
pub(super) struct Quotas(Vec<Quota>);

impl Quotas {
    /// The number of a quota, from 0 on.
    pub(super) fn number(&mut self, quota: &Quota) -> usize {
        let known = self.0.iter().rposition(|known| known == quota);
        known.unwrap_or_else(|| {
            self.0.push(*quota);
            self.0.len() - 1
        })
    }

    pub(super) fn all(&self) -> &[Quota] {
        &self.0
    }
}

/// What a check costs: above the capacity, one cost is as good as any other.
pub(super) fn cost(check: &Check) -> u64 {
    check.cost.min(check.quota.capacity() + 1)
}

/// The script's side of a number is a double; every one here is an integer below 2^53.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn packed(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn append(&mut self, other: Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// What a batch in order begins with.
    pub(super) fn in_order(&mut self, plain: usize, quotas: &[Quota], requests: usize, keep: Keep) {
        self.short(plain);
        self.short(quotas.len());
        self.short(requests);
        self.keep(keep);
        quotas.iter().for_each(|quota| self.quota(quota));
    }

    pub(super) fn keep(&mut self, keep: Keep) {
        self.millis(keep.grace);
        self.millis(keep.virtual_expiry);
    }

    pub(super) fn count(&mut self, count: u32) {
        self.0.extend_from_slice(&count.to_le_bytes());
    }

    pub(super) fn short(&mut self, number: usize) {
        self.0.extend_from_slice(&u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes());
    }

    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
    pub(super) fn double(&mut self, number: u64) {
        self.0.extend_from_slice(&(number as f64).to_le_bytes());
    }

    fn millis(&mut self, duration: Duration) {
        // Beyond the longest window there is nothing to keep.
        let most = Quota::MAX_WINDOW.as_millis();
        self.double(u64::try_from(duration.as_millis().min(most)).unwrap_or(0));
    }

    pub(super) fn instant(&mut self, at: Option<Timestamp>) {
        match at {
            Some(at) => self.double(at.as_micros()),
            None => self.0.extend_from_slice(&(-1_f64).to_le_bytes()),
        }
    }

    pub(super) fn quota(&mut self, quota: &Quota) {
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
