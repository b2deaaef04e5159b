//! Load, closed and open: callers who ask again once they are answered, and callers who come when they come.

use crate::float;
use crate::keys::{Keys, Order};
use crate::random::Random;
use hdrhistogram::Histogram;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// One who answers callers: a store behind the library, or a bare command of the same server.
pub struct Contestant {
    /// How it is called in the report.
    pub name: &'static str,
    lead: Arc<dyn Lead>,
}

impl std::fmt::Debug for Contestant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contestant").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How one is asked. Each caller has a clone, as the handlers of a service have.
pub trait Ask: Clone + Send + Sync + 'static {
    /// Asks about one of the keys, by its index.
    fn ask(&mut self, key: usize) -> impl Future<Output = ()> + Send;
}

/// A closure whose futures borrow nothing of it.
impl<F, A> Ask for F
where
    F: Fn(usize) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = ()> + Send,
{
    fn ask(&mut self, key: usize) -> impl Future<Output = ()> + Send {
        self(key)
    }
}

/// What callers of a contestant of whatever type do.
trait Lead: Send + Sync {
    /// One who asks again as soon as it is answered, until it is over; how often it was.
    fn caller(&self, order: Order, over: Arc<AtomicBool>, record: Option<Record>) -> Led<u64>;

    /// One who asks once.
    fn once(&self, key: usize) -> Led<()>;
}

type Led<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<A: Ask> Lead for A {
    fn caller(&self, mut order: Order, over: Arc<AtomicBool>, record: Option<Record>) -> Led<u64> {
        let mut own = self.clone();
        Box::pin(async move {
            let (mut answers, mut asked) = (0, Instant::now());
            while !over.load(Relaxed) {
                own.ask(order.next_key()).await;
                answers += 1;
                if let Some(record) = &record {
                    let answered = Instant::now();
                    record.add(answered - asked);
                    asked = answered;
                }
            }
            answers
        })
    }

    fn once(&self, key: usize) -> Led<()> {
        let mut own = self.clone();
        Box::pin(async move { own.ask(key).await })
    }
}

impl Contestant {
    /// A contestant that is asked like this.
    pub fn new(name: &'static str, ask: impl Ask) -> Self {
        Self { name, lead: Arc::new(ask) }
    }
}

/// When callers ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// So many callers, each asking again as soon as it is answered.
    Closed(usize),
    /// So many per second on average, whether or not those before are answered, knowing nothing of each other (Poisson).
    ///
    /// Latency counts from the instant at which a request was to be sent, so that one that had to wait for its turn here
    /// is as late as its caller saw it: no coordinated omission (Tene, "How NOT to measure latency", 2013). Why it is
    /// another thing than a closed loop: Schroeder, Wierman and Harchol-Balter, NSDI 2006.
    Open(f64),
}

/// How callers ask about which keys, and for how long a turn lasts.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// When they ask.
    pub arrivals: Arrivals,
    /// What about.
    pub keys: Keys,
    /// The length of a turn.
    pub turn: Duration,
}

/// What one turn came to.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Answers per second.
    pub rate: f64,
    /// Nanoseconds until an answer.
    pub latency: Histogram<u64>,
}

/// The turns of one contestant, by repetition.
#[derive(Clone, Debug)]
pub struct Turns(pub Vec<Turn>);

impl Turns {
    /// The median of what is taken of each turn.
    #[must_use]
    pub fn median(&self, of: impl Fn(&Turn) -> f64) -> f64 {
        median(self.0.iter().map(of).collect())
    }

    /// The median of the ratios within a repetition.
    #[must_use]
    pub fn ratio_to(&self, other: &Self, of: impl Fn(&Turn) -> f64) -> f64 {
        median(self.0.iter().zip(&other.0).map(|(own, other)| of(own) / of(other)).collect())
    }
}

impl Turn {
    /// The latency that this share of the answers did not pass, in us.
    #[must_use]
    pub fn micros_at(&self, share: f64) -> f64 {
        float(self.latency.value_at_quantile(share)) / 1_000.0
    }
}

/// The middle one; of none, not a number.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Lets the contestants take turns, in an order that rotates, so that a busy machine slows all of them alike.
///
/// # Panics
/// A caller of a contestant does: what the others answered meanwhile would be compared with less than all.
pub async fn compete(contestants: &[Contestant], scenario: &Scenario, repetitions: usize) -> Vec<Turns> {
    let mut turns: Vec<Turns> = contestants.iter().map(|_| Turns(Vec::new())).collect();
    for contestant in contestants {
        turn(contestant, &Scenario { turn: scenario.turn / 4, ..scenario.clone() }).await;
    }
    for repetition in 0..repetitions {
        for place in 0..contestants.len() {
            let place = (place + repetition) % contestants.len();
            turns[place].0.push(turn(&contestants[place], scenario).await);
        }
    }
    turns
}

async fn turn(contestant: &Contestant, scenario: &Scenario) -> Turn {
    match scenario.arrivals {
        Arrivals::Closed(callers) => closed(contestant, scenario, callers).await,
        Arrivals::Open(rate) => open(contestant, scenario, rate).await,
    }
}

/// So many callers of a closed loop note how long they waited. Where there are more, the others are like them, and do
/// not: notes of hundreds of thousands of answers a second are a part of what is measured, and no contestant's.
const NOTING: usize = 16;

async fn closed(contestant: &Contestant, scenario: &Scenario, callers: usize) -> Turn {
    let (record, over) = (Record::default(), Arc::new(AtomicBool::new(false)));
    let began = Instant::now();
    let callers = (0..callers).map(|caller| {
        let record = (caller < NOTING).then(|| record.clone());
        tokio::spawn(contestant.lead.caller(scenario.keys.order(caller as u64), Arc::clone(&over), record))
    });
    let callers: Vec<_> = callers.collect();
    tokio::time::sleep(scenario.turn).await;
    over.store(true, Relaxed);
    let mut answers = 0;
    for caller in callers {
        answers += caller.await.unwrap_or_else(|failed| panic!("{}: {failed}", contestant.name));
    }
    Turn { rate: float(answers) / began.elapsed().as_secs_f64(), latency: record.latency() }
}

/// The most requests of an open loop that are out at a time; those beyond wait, and are late.
const MOST_OUT: u32 = 10_000;

async fn open(contestant: &Contestant, scenario: &Scenario, rate: f64) -> Turn {
    let began = Instant::now();
    let schedule = schedule(Arc::clone(&contestant.lead), scenario.clone(), rate);
    // On the thread of those who ask, which is all that is waited for here: a third busy thread would take their core.
    let latency =
        tokio::spawn(schedule).await.unwrap_or_else(|failed| panic!("{}: {failed}", contestant.name));
    Turn { rate: float(latency.len()) / began.elapsed().as_secs_f64(), latency }
}

/// Sends requests when they are due, and waits for all answers.
async fn schedule(lead: Arc<dyn Lead>, scenario: Scenario, rate: f64) -> Histogram<u64> {
    let (record, out) = (Record::default(), Arc::new(Semaphore::new(MOST_OUT as usize)));
    let (mut random, mut order) = (Random::new(0), scenario.keys.order(0));
    let began = Instant::now();
    let (mut after, mut sent) = (random.exponential(1.0 / rate), 0);
    while after < scenario.turn.as_secs_f64() {
        let due = began + Duration::from_secs_f64(after);
        // The runtime's timer counts in milliseconds, a store answers in less.
        while Instant::now() < due {
            tokio::task::yield_now().await;
        }
        let Ok(permit) = Arc::clone(&out).acquire_owned().await else { break };
        let (asked, record) = (lead.once(order.next_key()), record.clone());
        tokio::spawn(async move {
            asked.await;
            record.add(due.elapsed());
            drop(permit);
        });
        sent += 1;
        after += random.exponential(1.0 / rate);
    }
    // Everyone is answered, or has failed.
    let _ = out.acquire_many(MOST_OUT).await;
    let latency = record.latency();
    assert_eq!(latency.len(), sent, "a caller has panicked");
    latency
}

/// Nanoseconds until answers. One for all callers: hundreds of histograms would be in no cache.
#[derive(Clone)]
struct Record(Arc<Mutex<Histogram<u64>>>);

impl Record {
    fn add(&self, time: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos(time));
    }

    fn latency(&self) -> Histogram<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Default for Record {
    fn default() -> Self {
        let empty = Histogram::new_with_bounds(1, 10_000_000_000, 3);
        Self(Arc::new(Mutex::new(empty.unwrap_or_else(|_| unreachable!("the bounds are in order")))))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::runtime::Builder;

    fn compete_once(contestant: Contestant, arrivals: Arrivals) -> Turn {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
        let scenario = Scenario { arrivals, keys: Keys::uniform(10), turn: Duration::from_millis(200) };
        let turns = runtime.block_on(compete(&[contestant], &scenario, 1));
        turns[0].0[0].clone()
    }

    /// A store that answers one caller at a time, in ten milliseconds, and is asked 200 times a second in an open loop:
    /// whoever waits behind others is as late as the queue is long. A harness that omitted that would say 10 ms.
    #[test]
    fn an_open_loop_counts_the_wait_from_when_it_was_due() {
        let store = || {
            let one = Arc::new(tokio::sync::Mutex::new(()));
            Contestant::new("slow", move |_| {
                let one = Arc::clone(&one);
                async move {
                    let _turn = one.lock().await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        };
        let open = compete_once(store(), Arrivals::Open(200.0));
        let closed = compete_once(store(), Arrivals::Closed(1));
        assert!(open.micros_at(0.99) > 5.0 * closed.micros_at(0.5), "{} us", open.micros_at(0.99));
        // As many as were due in 200 ms, by the seed, and not as many as could be answered in them.
        assert!((30..=50).contains(&open.latency.len()), "{}", open.latency.len());
    }

    /// A store that stops the whole process now and then: who was due meanwhile is late, although it is answered as soon
    /// as it is sent.
    #[test]
    fn an_open_loop_counts_what_is_sent_late() {
        let asked = Arc::new(AtomicU64::new(0));
        let store = Contestant::new("stopping", move |_| {
            let asked = Arc::clone(&asked);
            async move {
                if asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(40) {
                    std::thread::sleep(Duration::from_millis(30));
                }
            }
        });
        let open = compete_once(store, Arrivals::Open(1_000.0));
        assert!(open.micros_at(0.5) > 2_000.0, "{} us", open.micros_at(0.5));
    }

    /// Of whom some note their waits, and all are counted.
    #[test]
    fn a_closed_loop_counts_all_callers() {
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let store = Contestant::new("counting", move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1))
        });
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
        let turn = Duration::from_millis(200);
        let scenario = Scenario { arrivals: Arrivals::Closed(4 * NOTING), keys: Keys::uniform(10), turn };
        let began = Instant::now();
        let turn = runtime.block_on(closed(&store, &scenario, 4 * NOTING));
        let (asked, longest) = (float(asked.load(Ordering::Relaxed)), began.elapsed().as_secs_f64());
        assert!((asked / longest..=asked / 0.2).contains(&turn.rate), "{asked}, {}", turn.rate);
        let noted = float(turn.latency.len());
        assert!((asked / noted - 4.0).abs() < 0.5, "{noted} of {asked}");
    }

    #[test]
    fn a_closed_loop_has_so_many_callers() {
        let (now, most) = (Arc::new(Semaphore::new(7)), Arc::new(Mutex::new(7)));
        let (seats, least) = (Arc::clone(&now), Arc::clone(&most));
        let store = Contestant::new("counting", move |_| {
            let (seats, least) = (Arc::clone(&seats), Arc::clone(&least));
            async move {
                let _seat = seats.acquire().await;
                let free = seats.available_permits();
                {
                    let mut least = least.lock().unwrap_or_else(PoisonError::into_inner);
                    *least = free.min(*least);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        assert!(compete_once(store, Arrivals::Closed(5)).latency.len() > 10);
        assert_eq!(*most.lock().unwrap_or_else(PoisonError::into_inner), 2);
    }
}
