//! One of something for each part of a store.

use std::sync::{Arc, OnceLock};

/// By a part's number ([`Shard::One`](crate::Shard::One)); made when it is first needed.
pub(crate) struct Parts<T>(Box<[OnceLock<Arc<T>>]>);

/// Parts that have one of their own, more than clusters have servers; those above share with lower ones.
const MOST: u32 = 1_024;

impl<T> Parts<T> {
    pub(crate) fn new() -> Self {
        Self((0..MOST).map(|_| OnceLock::new()).collect())
    }

    /// That of a part, made by `make` where there is none.
    pub(crate) fn get(&self, part: u32, make: impl FnOnce(u32) -> T) -> &Arc<T> {
        let number = part % MOST;
        // There are `MOST`, and a u32 is no wider than a pointer on any target of tokio's.
        self.0[number as usize].get_or_init(|| Arc::new(make(number)))
    }

    /// All that were ever needed, by number.
    pub(crate) fn known(&self) -> impl Iterator<Item = (u32, &Arc<T>)> {
        (0..).zip(&self.0).filter_map(|(number, part)| Some((number, part.get()?)))
    }
}
