//! A batch on its way to a store and back, for stores that decide a whole batch in one trip.

mod reply;

pub use reply::Reply;

use crate::algorithm::Reading;
use crate::decision::Verdict;
use crate::key::StorageKey;
use crate::request::{Check, Request};
use crate::time::Timestamp;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Known;
use tokio::time::Instant;

/// Requests of one trip, in order. Those in a row that are equal on one key travel as one [`Entry`] with a count.
///
/// To be correct, a store
/// - decides the entries in order as each key sees them, and an entry as so many equal requests one after another;
/// - answers each with its [`Answer`], of which [`verdicts`](Self::verdicts) makes one verdict per request.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    requests: Vec<&'a Request>,
    /// The entry of each request.
    entry_of: Vec<usize>,
    /// The first request of each entry, and how many there are.
    entries: Vec<(usize, u32)>,
    keys: Vec<&'a StorageKey>,
    /// Where each check's key stands in `keys`; of all requests in a row.
    places: Vec<usize>,
    /// Where a request's checks begin in `places`.
    first_check: Vec<usize>,
}

/// Equal requests in a row: one of any checks, or several of one check.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// One of them.
    pub request: &'a Request,
    /// How many they are.
    pub count: u32,
    /// Where its checks' keys stand in [`Batch::keys`].
    pub places: &'a [usize],
}

impl<'a> Batch<'a> {
    /// A batch of these requests.
    #[must_use]
    pub fn new(requests: Vec<&'a Request>) -> Self {
        let checks = requests.iter().map(|request| request.checks().len()).sum();
        let mut batch = Self {
            entry_of: Vec::with_capacity(requests.len()),
            entries: Vec::with_capacity(requests.len()),
            keys: Vec::with_capacity(checks),
            places: Vec::with_capacity(checks),
            first_check: Vec::with_capacity(requests.len()),
            requests,
        };
        // Places in `keys`, by the hash that each key brings along.
        let mut known: HashTable<usize> = HashTable::with_capacity(checks);
        let mut last = 0;
        // The last entry on each key.
        let mut last_on: Vec<usize> = Vec::with_capacity(checks);
        for i in 0..batch.requests.len() {
            let request = batch.requests[i];
            let first = batch.places.len();
            batch.first_check.push(first);
            for check in request.checks() {
                let (key, keys) = (&check.key, &mut batch.keys);
                let is_it = |place: &usize| keys[*place] == key;
                // Of a hot key, nearly always that of the one before.
                if keys.get(last) == Some(&key) {
                    batch.places.push(last);
                    continue;
                }
                last = match known.entry(key.hashed(), is_it, |place| keys[*place].hashed()) {
                    Known::Occupied(known) => *known.get(),
                    Known::Vacant(unknown) => {
                        let place = *unknown.insert(keys.len()).get();
                        keys.push(key);
                        last_on.push(usize::MAX);
                        place
                    }
                };
                batch.places.push(last);
            }
            let entry = batch.joined(request, last_on[batch.places[first]]).unwrap_or_else(|| {
                batch.entries.push((i, 0));
                batch.entries.len() - 1
            });
            batch.entries[entry].1 += 1;
            batch.entry_of.push(entry);
            batch.places[first..].iter().for_each(|place| last_on[*place] = entry);
        }
        batch
    }

    /// The entry that a request joins: of one check, equal, and the last on its key.
    fn joined(&self, request: &Request, last: usize) -> Option<usize> {
        let [check] = request.checks() else { return None };
        let earlier = self.requests[self.entries.get(last)?.0];
        let same = |other: &Check| other.quota == check.quota && other.cost == check.cost;
        let is_equal = matches!(earlier.checks(), [other] if same(other));
        (is_equal && earlier.instant() == request.instant()).then_some(last)
    }

    /// The entries, in order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        self.entries.iter().map(|(i, count)| {
            let (request, first) = (self.requests[*i], self.first_check[*i]);
            let places = &self.places[first..first + request.checks().len()];
            Entry { request, count: *count, places }
        })
    }

    /// The keys, each once, as they first occur.
    #[must_use]
    pub fn keys(&self) -> &[&'a StorageKey] {
        &self.keys
    }

    /// The requests, in order.
    #[must_use]
    pub fn requests(&self) -> &[&'a Request] {
        &self.requests
    }

    /// The place of each request's entry among [`entries`](Self::entries), in the requests' order.
    #[must_use]
    pub fn entry_of(&self) -> &[usize] {
        &self.entry_of
    }

    /// When the first of its callers stops waiting.
    #[must_use]
    pub fn first_deadline(&self) -> Option<Instant> {
        self.requests.iter().filter_map(|request| request.deadline()).min()
    }

    /// The verdicts of these answers, of which there is one per entry; one per request, `None` where an answer is
    /// missing, or is not what core's function makes of its reading.
    pub fn verdicts(&self, mut answers: Vec<Answer>) -> impl ExactSizeIterator<Item = Option<Verdict>> {
        let verdict = move |(request, entry): (&&Request, &usize)| answers.get_mut(*entry)?.next(request);
        self.requests.iter().zip(&self.entry_of).map(verdict)
    }
}

/// What a store answered to an [`Entry`].
#[derive(Clone, Debug)]
pub struct Answer {
    /// The instant that decided.
    pub now: Timestamp,
    /// How many of its requests were granted; they are the first of them.
    pub granted: u64,
    /// What was read for each check of the first.
    pub readings: Vec<Reading>,
}

impl Answer {
    /// The verdict on the next request of the entry; `None` if the store and core's function do not agree on it.
    #[must_use]
    pub fn next(&mut self, request: &Request) -> Option<Verdict> {
        let verdict = match (request.checks(), &mut self.readings[..]) {
            ([check], [reading]) => {
                let decision = reading.decide(&check.quota, check.cost, self.now)?;
                let verdict = Verdict::one(decision);
                if !decision.allowed {
                    verdict.on(&[*reading], self.now)
                } else {
                    if check.cost > 0 {
                        *reading = reading.after(&check.quota, check.cost);
                    }
                    verdict
                }
            }
            (checks, readings) => Reading::verdict(checks, readings, self.now)?,
        };
        if verdict.allowed() != (self.granted > 0) {
            return None;
        }
        self.granted = self.granted.saturating_sub(1);
        Some(verdict)
    }
}
