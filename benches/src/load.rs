//! Load, closed and open: callers who ask again once they are answered, and callers who come when they come.

use crate::float;
use crate::keys::Keys;
use crate::random::Random;
use hdrhistogram::Histogram;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// One who answers callers: a store behind the library, or a bare command of the same server.
pub struct Contestant {
    /// How it is called in the report.
    pub name: &'static str,
    /// Asks about one of the keys, by its index.
    pub ask: Ask,
}

impl std::fmt::Debug for Contestant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contestant").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How one is asked.
pub type Ask = Arc<dyn Fn(usize) -> Asked + Send + Sync>;

/// An answer on its way.
pub type Asked = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Contestant {
    /// A contestant that answers by this future.
    pub fn new<F: Future<Output = ()> + Send + 'static>(
        name: &'static str,
        ask: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> Self {
        Self { name, ask: Arc::new(move |key| Box::pin(ask(key))) }
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

async fn closed(contestant: &Contestant, scenario: &Scenario, callers: usize) -> Turn {
    let began = Instant::now();
    let end = began + scenario.turn;
    // One for all: hundreds of histograms would be in no cache, and what keeping the record costs is no contestant's.
    let latency = Arc::new(Mutex::new(empty()));
    let callers = (0..callers).map(|caller| {
        let (ask, mut order) = (Arc::clone(&contestant.ask), scenario.keys.order(caller as u64));
        let latency = Arc::clone(&latency);
        tokio::spawn(async move {
            let mut asked = Instant::now();
            while asked < end {
                ask(order.next_key()).await;
                let answered = Instant::now();
                record(&latency, answered - asked);
                asked = answered;
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    for caller in callers {
        // One that panicked has said so.
        let _ = caller.await;
    }
    let latency = recorded(&latency);
    Turn { rate: float(latency.len()) / began.elapsed().as_secs_f64(), latency }
}

/// The most requests of an open loop that are out at a time; those beyond wait, and are late.
const MOST_OUT: u32 = 10_000;

async fn open(contestant: &Contestant, scenario: &Scenario, rate: f64) -> Turn {
    let began = Instant::now();
    let schedule = schedule(Arc::clone(&contestant.ask), scenario.clone(), rate);
    // On the thread of those who ask, which is all that is waited for here: a third busy thread would take their core.
    let latency = tokio::spawn(schedule).await.unwrap_or_else(|_| empty());
    Turn { rate: float(latency.len()) / began.elapsed().as_secs_f64(), latency }
}

/// Sends requests when they are due, and waits for all answers.
async fn schedule(ask: Ask, scenario: Scenario, rate: f64) -> Histogram<u64> {
    let latency = Arc::new(Mutex::new(empty()));
    let out = Arc::new(Semaphore::new(MOST_OUT as usize));
    let (mut random, mut order) = (Random::new(0), scenario.keys.order(0));
    let began = Instant::now();
    let mut after = random.exponential(1.0 / rate);
    while after < scenario.turn.as_secs_f64() {
        let due = began + Duration::from_secs_f64(after);
        // The runtime's timer counts in milliseconds, a store answers in less.
        while Instant::now() < due {
            tokio::task::yield_now().await;
        }
        let Ok(permit) = Arc::clone(&out).acquire_owned().await else { break };
        let (asked, latency) = (ask(order.next_key()), Arc::clone(&latency));
        tokio::spawn(async move {
            asked.await;
            record(&latency, due.elapsed());
            drop(permit);
        });
        after += random.exponential(1.0 / rate);
    }
    // Everyone is answered, or has failed.
    let _ = out.acquire_many(MOST_OUT).await;
    recorded(&latency)
}

fn record(latency: &Mutex<Histogram<u64>>, time: Duration) {
    latency.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos(time));
}

fn recorded(latency: &Mutex<Histogram<u64>>) -> Histogram<u64> {
    latency.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are in order"))
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
