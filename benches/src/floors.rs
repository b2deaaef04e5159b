//! What was measured, as a table, and whether the floors hold.

use crate::load::{Turn, Turns};

/// The least that one contestant may be of another.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    who: &'static str,
    of: &'static str,
    what: What,
    bound: f64,
}

impl Floor {
    /// Answers per second, at least so many of the other's.
    #[must_use]
    pub const fn rate(who: &'static str, of: &'static str, bound: f64) -> Self {
        Self { who, of, what: What::Rate, bound }
    }

    /// The median latency, at most so much of the other's.
    #[must_use]
    pub const fn median(who: &'static str, of: &'static str, bound: f64) -> Self {
        Self { who, of, what: What::Median, bound }
    }

    /// The latency that one in a hundred passes, at most so much of its own median.
    #[must_use]
    pub const fn tail(who: &'static str, bound: f64) -> Self {
        Self { who, of: who, what: What::Tail, bound }
    }
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// Answers per second, at least.
    Rate,
    /// The median latency, at most.
    Median,
    /// The latency that one in a hundred passes, of the median, at most.
    Tail,
}

/// Prints a scenario's table, and of each floor whether it holds; whether all do.
#[must_use]
pub fn report(name: &str, contestants: &[(&str, Turns)], floors: &[Floor]) -> bool {
    let Some((_, first)) = contestants.first() else { return true };
    println!("\n{name}");
    println!("  {:28} {:>10} {:>7} {:>9} {:>9} {:>7}", "", "answers/s", "ratio", "p50 us", "p99 us", "ratio");
    for (name, turns) in contestants {
        println!(
            "  {name:28} {:10.0} {:7.2} {:9.1} {:9.1} {:7.2}",
            turns.median(rate),
            turns.ratio_to(first, rate),
            turns.median(|turn| turn.micros_at(0.5)),
            turns.median(|turn| turn.micros_at(0.99)),
            turns.ratio_to(first, |turn| turn.micros_at(0.5)),
        );
    }
    let find = |name: &str| contestants.iter().find(|(known, _)| *known == name).map(|(_, turns)| turns);
    let holds = floors.iter().map(|Floor { who, of, what, bound }| {
        let (Some(own), Some(other)) = (find(who), find(of)) else { return false };
        let (ratio, holds, word) = match what {
            What::Rate => {
                let ratio = own.ratio_to(other, rate);
                (ratio, ratio.is_finite() && ratio >= *bound, "answers per second, at least")
            }
            What::Median => {
                let ratio = own.ratio_to(other, |turn| turn.micros_at(0.5));
                (ratio, ratio <= *bound, "median latency, at most")
            }
            What::Tail => {
                let ratio = own.median(|turn| turn.micros_at(0.99) / turn.micros_at(0.5));
                (ratio, ratio <= *bound, "p99 of p50, at most")
            }
        };
        let verdict = if holds { "pass" } else { "MISSED" };
        println!("  {who} of {of}: {ratio:.2}, {word} {bound}: {verdict}");
        holds
    });
    holds.fold(true, |all, holds| all & holds)
}

fn rate(turn: &Turn) -> f64 {
    turn.rate
}
