//! Decisions in this process: `Memory`, and a counter in a map, on one thread.

use crate::Pace;
use benches::keys::Keys;
use benches::load::median;
use benches::report::{InProcess, InProcessRow};
use benches::stores::Fallible;
use limiter_core::{Algorithm, Memory, RateLimiter, Rule};
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

struct Contestant {
    name: String,
    /// Decides on a key; whether it may go ahead.
    decide: Box<dyn Fn(&String) -> bool>,
}

/// Decisions of a turn.
const DECISIONS: usize = 300_000;

pub(crate) fn measure(algorithms: &[Algorithm], pace: Pace) -> Fallible<Vec<InProcess>> {
    let names = benches::keys(benches::KEYS);
    let patterns = [
        ("one hot key", Keys::hot()),
        ("Zipf over 100,000", Keys::zipf(benches::KEYS)),
        ("uniform over 100,000", Keys::uniform(benches::KEYS)),
    ];
    patterns.into_iter().map(|(name, keys)| pattern(name, &keys, &names, algorithms, pace)).collect()
}

fn pattern(
    name: &str,
    keys: &Keys,
    names: &[String],
    algorithms: &[Algorithm],
    pace: Pace,
) -> Fallible<InProcess> {
    let decisions = DECISIONS / if pace.repetitions == 1 { 10 } else { 1 };
    let mut order = keys.order(7);
    let order: Vec<usize> = std::iter::repeat_with(|| order.next_key()).take(decisions).collect();
    let mut contestants = vec![counter()];
    for algorithm in algorithms {
        contestants.push(limiter(*algorithm)?);
    }
    let mut nanos = vec![Vec::new(); contestants.len()];
    for repetition in 0..=pace.repetitions {
        for place in 0..contestants.len() {
            let place = (place + repetition) % contestants.len();
            let Contestant { name, decide } = &contestants[place];
            let began = Instant::now();
            let admitted = order.iter().filter(|key| decide(black_box(&names[**key]))).count();
            let took = began.elapsed().as_secs_f64() * 1e9;
            if admitted != decisions {
                return Err(format!("{name} admitted {admitted} of {decisions}").into());
            }
            // The first time fills the tables.
            if repetition > 0 {
                nanos[place].push(took / benches::float(decisions as u64));
            }
        }
    }
    let row = |(contestant, own): (&Contestant, &Vec<f64>)| InProcessRow {
        name: contestant.name.clone(),
        nanos: median(own.clone()),
        ratio: median(own.iter().zip(&nanos[0]).map(|(own, first)| own / first).collect()),
    };
    Ok(InProcess { keys: name.to_owned(), rows: contestants.iter().zip(&nanos).map(row).collect() })
}

fn counter() -> Contestant {
    let counts: Mutex<HashMap<String, u64>> = Mutex::default();
    let decide = move |key: &String| {
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(key) {
            Some(count) => *count += 1,
            None => drop(counts.insert(key.clone(), 1)),
        }
        true
    };
    Contestant { name: "HashMap increment".to_owned(), decide: Box::new(decide) }
}

fn limiter(algorithm: Algorithm) -> Fallible<Contestant> {
    let rule = Rule::new("user", benches::plenty(algorithm));
    let limiter = RateLimiter::builder(Memory::new()).rule(rule).build()?;
    let decide = move |key: &String| limiter.check_now(key).is_some_and(|decision| decision.allowed);
    Ok(Contestant { name: format!("Memory, {algorithm}"), decide: Box::new(decide) })
}
