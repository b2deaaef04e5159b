//! From a batch to trips: what goes together, where to, and in which order.

use crate::batch::{Answer, Batch, Keep, MAX_CHECKS, MAX_REQUESTS, gift};
use crate::error::{NAME, malformed, unsent};
use crate::route::{Route, Slot, text};
use crate::script::{GIVE_BACK, RESET};
use crate::server::{Advice, Call, CallError, Patience};
use crate::take_and_give_back::Keys;
use futures_util::future::{join, join_all};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use limiter_core::{
    BackendError, Check, Effect, ErrorKind, Request, StorageKey, Timestamp, Verdict, take_and_give_back,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The store that all clones share.
pub(crate) struct Trips {
    pub(crate) route: Route,
    keep: Keep,
    timeout: Duration,
    pub(crate) allow_eviction: bool,
    max_in_flight: usize,
    pub(crate) corrupt: AtomicU64,
}

impl Trips {
    pub(crate) fn new(
        route: Route,
        keep: Keep,
        timeout: Duration,
        allow_eviction: bool,
        max_in_flight: usize,
    ) -> Self {
        Self { route, keep, timeout, allow_eviction, max_in_flight, corrupt: AtomicU64::new(0) }
    }

    /// Decides requests; those whose deadline has passed are not sent.
    pub(crate) async fn decide(self: &Arc<Self>, batch: &[Request]) -> Vec<Result<Verdict, BackendError>> {
        let now = Instant::now();
        let is_live = |request: &Request| request.deadline().is_none_or(|deadline| deadline > now);
        let live: Vec<&Request> = batch.iter().filter(|request| is_live(request)).collect();
        let (asked, answers) = (live.len(), self.decide_live(live).await);
        if asked == batch.len() {
            return answers;
        }
        let mut answers = answers.into_iter();
        let late = || unsent(ErrorKind::Timeout, "decide", "the deadline passed before it was sent");
        let answer = |request: &Request| {
            if is_live(request) { answers.next().unwrap_or_else(|| Err(missing())) } else { Err(late()) }
        };
        batch.iter().map(answer).collect()
    }

    async fn decide_live(self: &Arc<Self>, requests: Vec<&Request>) -> Vec<Result<Verdict, BackendError>> {
        match &self.route {
            Route::One(_) => self.decide_on_one(requests).await,
            Route::Cluster(_) => self.decide_on_many(requests).await,
        }
    }

    /// Trips to one server, one after another.
    async fn decide_on_one(&self, requests: Vec<&Request>) -> Vec<Result<Verdict, BackendError>> {
        let all: Vec<usize> = (0..requests.len()).collect();
        if trips(&requests, &all).next() == Some(&all) {
            return self.decide_in(Slot::default(), requests, true).await;
        }
        let mut answers = Vec::with_capacity(requests.len());
        for places in trips(&requests, &all) {
            let group = places.iter().map(|place| requests[*place]).collect();
            answers.extend(self.decide_in(Slot::default(), group, false).await);
        }
        answers
    }

    /// Requests of one slot in parallel by slot. One that spans several is in line with those that it shares keys with, by
    /// themselves or through others, and holds up no other.
    async fn decide_on_many(self: &Arc<Self>, requests: Vec<&Request>) -> Vec<Result<Verdict, BackendError>> {
        let mut answers = Answers(vec![None; requests.len()]);
        let requests = &requests[..];
        let slots: Vec<Option<Slot>> = requests.iter().map(|request| Slot::of_all(request)).collect();
        if slots.iter().all(Option::is_some) {
            self.decide_slots(by_slot(&slots, 0..slots.len()), requests, &mut answers).await;
            return answers.all();
        }
        let spans = |places: &Vec<usize>| places.iter().any(|place| slots[*place].is_none());
        let (lines, free): (Vec<_>, Vec<_>) = sharing_keys(requests).into_iter().partition(spans);
        let lines = lines.into_iter().map(|places| self.decide_in_line(places, requests, &slots));
        // All looks of a request leave together.
        let widest = requests.iter().map(|request| request.checks().len()).max().unwrap_or(1);
        let most = (self.max_in_flight / 2 / widest).clamp(1, MOST_LINES);
        let lines = stream::iter(lines).buffer_unordered(most).collect::<Vec<_>>();
        let free = by_slot(&slots, free.into_iter().flatten());
        let (lines, ()) = join(lines, self.decide_slots(free, requests, &mut answers)).await;
        lines.into_iter().for_each(|(places, group)| answers.put_each(&places, group));
        answers.all()
    }

    /// One after another.
    async fn decide_in_line(
        self: &Arc<Self>,
        places: Vec<usize>,
        requests: &[&Request],
        slots: &[Option<Slot>],
    ) -> (Vec<usize>, Vec<Result<Verdict, BackendError>>) {
        let mut answers = Vec::with_capacity(places.len());
        for place in &places {
            let request = requests[*place];
            match slots[*place] {
                Some(slot) => answers.extend(self.decide_in(slot, vec![request], false).await),
                None => answers.push(take_and_give_back::start(Keys(Arc::clone(self)), request).await),
            }
        }
        (places, answers)
    }

    async fn decide_slots(
        &self,
        by_slot: BTreeMap<Slot, Vec<usize>>,
        requests: &[&Request],
        answers: &mut Answers,
    ) {
        // Those of one slot one after another, as each key sees them in order.
        let slots = by_slot.into_iter().map(|(slot, places)| async move {
            let mut answered = Vec::with_capacity(places.len());
            for trip in trips(requests, &places) {
                let group = trip.iter().map(|place| requests[*place]).collect();
                answered.extend(self.decide_in(slot, group, trip.len() == requests.len()).await);
            }
            (answered, places)
        });
        let mut slots = stream::iter(slots).buffer_unordered(MOST_SLOTS);
        while let Some((group, places)) = slots.next().await {
            answers.put_each(&places, group);
        }
    }

    /// Decides requests that may go in one script: of one slot, or for a server that has all. `are_all`: of whoever asks.
    pub(crate) async fn decide_in(
        &self,
        slot: Slot,
        requests: Vec<&Request>,
        are_all: bool,
    ) -> Vec<Result<Verdict, BackendError>> {
        match self.trip(slot, &requests, false).await {
            Ok(answers) => answers,
            Err(CallError { advice: Some(Advice::TryAgain), .. }) => {
                self.decide_apart(slot, &requests, are_all).await
            }
            Err(failed) => vec![Err(failed.error); requests.len()],
        }
    }

    /// While a slot moves, some keys are on one server and some on the other: each request goes with those only that it
    /// shares a key with, so that one whose own keys are apart holds up no other. It waits until they are together where
    /// no others are answered with it.
    async fn decide_apart(
        &self,
        slot: Slot,
        requests: &[&Request],
        are_all: bool,
    ) -> Vec<Result<Verdict, BackendError>> {
        let mut answers = Answers(vec![None; requests.len()]);
        let groups = sharing_keys(requests);
        let waits = are_all && groups.len() == 1;
        let trips = groups.into_iter().map(|places| async move {
            let group: Vec<&Request> = places.iter().map(|place| requests[*place]).collect();
            (self.decide_group(slot, &group, waits).await, places)
        });
        for (group, places) in join_all(trips).await {
            answers.put_each(&places, group);
        }
        answers.all()
    }

    /// Requests that share keys: together, or where one's keys are apart, one after another.
    async fn decide_group(
        &self,
        slot: Slot,
        group: &[&Request],
        waits: bool,
    ) -> Vec<Result<Verdict, BackendError>> {
        match self.trip(slot, group, waits).await {
            Ok(answers) => answers,
            Err(CallError { advice: Some(Advice::TryAgain), .. }) if group.len() > 1 => {
                let mut answers = Vec::with_capacity(group.len());
                for request in group {
                    let answered = self.trip(slot, std::slice::from_ref(request), false).await;
                    answers.extend(answered.unwrap_or_else(|failed| vec![Err(failed.error)]));
                }
                answers
            }
            Err(failed) => vec![Err(failed.error); group.len()],
        }
    }

    async fn trip(
        &self,
        slot: Slot,
        requests: &[&Request],
        waits: bool,
    ) -> Result<Vec<Result<Verdict, BackendError>>, CallError> {
        let mut places: Vec<usize> = (0..requests.len()).collect();
        let mut answers = Answers(Vec::new());
        loop {
            let batch = Batch::pack(places.iter().map(|place| requests[*place]).collect(), self.keep)?;
            let failed = match self.send(slot, &batch, waits).await {
                Ok(sent) if places.len() == requests.len() => return Ok(batch.verdicts(sent)),
                Ok(sent) => {
                    answers.put_each(&places, batch.verdicts(sent));
                    return Ok(answers.all());
                }
                Err(failed) => failed,
            };
            answers.0.resize(requests.len(), None);
            // Nothing left before the first deadline: those who have more time go without those who had not.
            let (waiting, now) = (places.len(), Instant::now());
            let is_late = |place: &usize| requests[*place].deadline().is_some_and(|deadline| deadline <= now);
            for late in places.extract_if(.., |place| is_late(place)) {
                answers.0[late] = Some(Err(failed.error.clone()));
            }
            if failed.error.effect() != Effect::NotApplied || places.is_empty() || places.len() == waiting {
                places.iter().for_each(|place| answers.0[*place] = Some(Err(failed.error.clone())));
                return if waiting == requests.len() { Err(failed) } else { Ok(answers.all()) };
            }
        }
    }

    /// What one check by itself is answered, without taking it.
    pub(crate) async fn look(&self, request: &Request) -> Result<Answer, BackendError> {
        self.send_one(request, &Batch::look(request, self.keep)).await
    }

    /// Takes one check by itself.
    pub(crate) async fn take(&self, request: &Request) -> Result<Answer, BackendError> {
        self.send_one(request, &Batch::pack(vec![request], self.keep)?).await
    }

    /// Gives back what one check has taken.
    pub(crate) async fn give_back(
        &self,
        check: &Check,
        at: Option<Timestamp>,
        taken: &Answer,
    ) -> Result<(), BackendError> {
        let gift = gift(check, at, taken, self.keep);
        let call = Call {
            operation: "give back",
            script: &GIVE_BACK,
            keys: vec![text(&check.key)],
            arguments: vec![&gift],
        };
        let patience = Patience { queues: true, ..self.patience(None) };
        self.route.call(Slot::of(&check.key), &call, patience).await.map(|_nothing| ())
    }

    async fn send_one(&self, request: &Request, batch: &Batch<'_>) -> Result<Answer, BackendError> {
        let slot = Slot::of_all(request).unwrap_or_default();
        let mut answers = self.send(slot, batch, true).await.map_err(|failed| failed.error)?;
        answers.pop().ok_or_else(malformed)
    }

    async fn send(&self, slot: Slot, batch: &Batch<'_>, waits: bool) -> Result<Vec<Answer>, CallError> {
        let call = Call {
            operation: "decide",
            script: batch.script(),
            keys: batch.keys().iter().map(|key| text(key)).collect(),
            arguments: vec![batch.argument()],
        };
        let patience = self.patience(batch.first_deadline());
        let reply = self.route.call_or_part(slot, &call, patience, waits).await?;
        let (corrupt, answers) = batch.answers(reply).ok_or_else(malformed)?;
        self.corrupt.fetch_add(corrupt, Ordering::Relaxed);
        Ok(answers)
    }

    /// Forgets these keys, slot by slot.
    pub(crate) async fn reset(&self, keys: &[StorageKey]) -> Result<(), BackendError> {
        let mut by_slot: BTreeMap<Slot, Vec<Vec<u8>>> = BTreeMap::new();
        for key in keys {
            let slot = match self.route {
                Route::One(_) => Slot::default(),
                Route::Cluster(_) => Slot::of(key),
            };
            by_slot.entry(slot).or_default().push(text(key));
        }
        let calls = by_slot.into_iter().map(|(slot, keys)| async move {
            for keys in keys.chunks(MAX_CHECKS) {
                match self.forget(slot, keys, false).await {
                    Err(CallError { advice: Some(Advice::TryAgain), .. }) => {
                        let alone = keys.chunks(1).map(|key| self.forget(slot, key, true));
                        join_all(alone).await.into_iter().collect::<Result<Vec<()>, _>>().map(|_| ())
                    }
                    done => done,
                }
                .map_err(|failed| failed.error)?;
            }
            Ok(())
        });
        stream::iter(calls).buffer_unordered(MOST_SLOTS).try_collect().await
    }

    async fn forget(&self, slot: Slot, keys: &[Vec<u8>], waits: bool) -> Result<(), CallError> {
        let call = Call { operation: "reset", script: &RESET, keys: keys.to_vec(), arguments: vec![] };
        self.route.call_or_part(slot, &call, self.patience(None), waits).await.map(|_forgotten| ())
    }

    pub(crate) fn patience(&self, send_by: Option<Instant>) -> Patience {
        Patience { send_by, reply_by: Instant::now() + self.timeout, queues: false }
    }
}

/// Calls of one batch that are under way at once: half of what a server takes by default.
const MOST_SLOTS: usize = 512;

/// Requests over several slots of one batch that are under way at once, and where that is less, as many as half of the
/// calls that may be in flight.
const MOST_LINES: usize = 64;

/// Those of these places that are of one slot, by slot.
fn by_slot(slots: &[Option<Slot>], places: impl Iterator<Item = usize>) -> BTreeMap<Slot, Vec<usize>> {
    let mut by_slot: BTreeMap<Slot, Vec<usize>> = BTreeMap::new();
    for place in places {
        if let Some(slot) = slots[place] {
            by_slot.entry(slot).or_default().push(place);
        }
    }
    by_slot
}

/// The places of requests, cut where a trip is full.
fn trips<'a>(requests: &'a [&Request], places: &'a [usize]) -> impl Iterator<Item = &'a [usize]> {
    let mut rest = places;
    std::iter::from_fn(move || {
        let mut checks = 0;
        let fits = |place: &&usize| {
            checks += requests[**place].checks().len();
            checks <= MAX_CHECKS
        };
        let count = rest.iter().take(MAX_REQUESTS).take_while(fits).count().max(1);
        let (trip, behind) = rest.split_at_checked(count)?;
        rest = behind;
        Some(trip)
    })
}

/// The places of requests, those together that share a key with one another or through others, each group in order.
fn sharing_keys(requests: &[&Request]) -> Vec<Vec<usize>> {
    // Of each place an earlier one of its group, itself where there is none.
    let mut earlier: Vec<usize> = (0..requests.len()).collect();
    let first = |earlier: &[usize], mut place: usize| {
        while earlier[place] != place {
            place = earlier[place];
        }
        place
    };
    let mut last_on: HashMap<&StorageKey, usize> = HashMap::new();
    for (place, request) in requests.iter().enumerate() {
        for check in request.checks() {
            if let Some(other) = last_on.insert(&check.key, place) {
                let (one, other) = (first(&earlier, place), first(&earlier, other));
                earlier[one.max(other)] = one.min(other);
            }
        }
        // A step from each to the first, so that chains stay short.
        earlier[place] = first(&earlier, place);
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for place in 0..requests.len() {
        groups.entry(first(&earlier, place)).or_default().push(place);
    }
    groups.into_values().collect()
}

fn missing() -> BackendError {
    BackendError::new(ErrorKind::Unexpected, Effect::Unknown, NAME, "decide", "no answer")
}

/// Answers in their places, while they come.
struct Answers(Vec<Option<Result<Verdict, BackendError>>>);

impl Answers {
    fn all(self) -> Vec<Result<Verdict, BackendError>> {
        self.0.into_iter().map(|answer| answer.unwrap_or_else(|| Err(missing()))).collect()
    }

    fn put_each(&mut self, places: &[usize], answers: Vec<Result<Verdict, BackendError>>) {
        places.iter().zip(answers).for_each(|(place, answer)| self.0[*place] = Some(answer));
    }
}
