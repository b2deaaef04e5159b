//! A closed loop: so many callers, each asking again as soon as it is answered.

use hdrhistogram::Histogram;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One who answers callers: a store behind the library, or a bare command of the same server.
pub struct Contestant {
    /// How it is called in the report.
    pub name: &'static str,
    /// Asks about one of the keys, by its index.
    pub ask: Arc<dyn Fn(usize) -> Asked + Send + Sync>,
}

impl std::fmt::Debug for Contestant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contestant").field("name", &self.name).finish_non_exhaustive()
    }
}

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

/// How many callers ask about how many keys, and for how long a turn lasts.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Callers at the same time.
    pub callers: usize,
    /// Keys, each as likely as any other.
    pub keys: usize,
    /// The length of a turn.
    pub turn: Duration,
}

/// What one turn came to.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Answers per second.
    pub rate: f64,
    /// Microseconds until an answer.
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Lets the contestants take turns, in an order that rotates, so that a busy machine slows all of them alike.
pub async fn compete(contestants: &[Contestant], scenario: Scenario, repetitions: usize) -> Vec<Turns> {
    let mut turns: Vec<Turns> = contestants.iter().map(|_| Turns(Vec::new())).collect();
    for contestant in contestants {
        turn(contestant, Scenario { turn: scenario.turn / 4, ..scenario }).await;
    }
    for repetition in 0..repetitions {
        for place in 0..contestants.len() {
            let place = (place + repetition) % contestants.len();
            turns[place].0.push(turn(&contestants[place], scenario).await);
        }
    }
    turns
}

async fn turn(contestant: &Contestant, scenario: Scenario) -> Turn {
    let began = Instant::now();
    let end = began + scenario.turn;
    let callers = (0..scenario.callers).map(|caller| {
        let ask = Arc::clone(&contestant.ask);
        tokio::spawn(async move {
            let mut latency = empty();
            let mut order = crate::order(scenario.keys, 1 << 12, caller as u64).into_iter().cycle();
            let mut asked = Instant::now();
            while asked < end {
                ask(order.next().unwrap_or(0)).await;
                let answered = Instant::now();
                latency.saturating_record(u64::try_from((answered - asked).as_nanos()).unwrap_or(u64::MAX));
                asked = answered;
            }
            latency
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut latency = empty();
    for caller in callers {
        if let Ok(own) = caller.await {
            latency += own;
        }
    }
    Turn { rate: float(latency.len()) / began.elapsed().as_secs_f64(), latency }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are in order"))
}

/// Near enough for a report.
#[expect(clippy::cast_precision_loss, reason = "a report shows three digits")]
#[must_use]
pub const fn float(number: u64) -> f64 {
    number as f64
}
