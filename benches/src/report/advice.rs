//! What to choose, with the figures of the run that say why.

use super::tables::{Table, micros};
use super::{LoadRow, Report};
use crate::accuracy::Score;
use crate::report::svg::number;

/// The name under which the library is in the scenario that stores are compared by.
const DEFAULT: &str = "token-bucket";

/// One plain table: what one needs, what to take, what was measured.
pub(super) fn table(report: &Report) -> Table {
    let mut rows = Vec::new();
    let mut row = |need: &str, take: &str, why: Option<String>| {
        if let Some(why) = why {
            rows.push(vec![need.to_owned(), take.to_owned(), why]);
        }
    };
    let small = report.traces.first().and_then(|trace| {
        trace
            .scores
            .iter()
            .map(|score| &score.policy)
            .find(|policy| policy.starts_with("token-bucket, burst"))
    });
    row("nearly everything", "token-bucket", worst(report, "token-bucket").map(|worst| {
        let fair = score(report, "steady", "token-bucket").and_then(|score| score.fairness).unwrap_or(f64::NAN);
        format!("worst window {worst:.2} limits, burst and refill, over all traces; fairness {fair:.2} at a steady overload")
    }));
    if let Some(small) = small {
        row(
            "little more than the limit in any window, at the price of short bursts",
            small,
            worst(report, small).map(|worst| format!("worst window {worst:.2} limits")),
        );
    }
    row(
        "never more than the limit in any window, by contract",
        "sliding-log",
        worst(report, "sliding-log").map(|worst| {
            let nanos = cost(report, "sliding-log").unwrap_or(f64::NAN);
            format!("worst window {worst:.2} limits; {nanos:.0} ns per decision, and memory per admission")
        }),
    );
    row(
        "work that must be spaced out",
        "leaky-bucket",
        score(report, "bursty", "leaky-bucket").map(|score| {
            let token =
                self::score(report, "bursty", "token-bucket").map_or(f64::NAN, |score| score.unevenness);
            format!(
                "unevenness {:.2} on bursts for those who wait for their turns, where the token bucket has {token:.2}",
                score.unevenness
            )
        }),
    );
    row(
        "a quota per calendar unit, such as a day's",
        "fixed-window",
        worst(report, "fixed-window").map(|worst| {
            format!("exact per aligned window; worst window {worst:.2} limits, across a boundary")
        }),
    );
    row(
        "a sliding window over many keys",
        "sliding-counter",
        score(report, "boundary attack", "sliding-counter").map(|score| {
            let worst = worst(report, "sliding-counter").unwrap_or(f64::NAN);
            let bursty =
                self::score(report, "bursty", "sliding-counter").map_or(f64::NAN, |score| score.worst_window);
            format!(
                "worst window {:.2} limits under a boundary attack, {bursty:.2} on bursts; {worst:.2} for one who \
                 knows it",
                score.worst_window
            )
        }),
    );
    if let Some(memory) = report
        .in_process
        .first()
        .and_then(|pattern| pattern.rows.iter().find(|row| row.name.ends_with(DEFAULT)))
    {
        row(
            "limits within one process",
            "memory",
            Some(format!("{:.0} ns per decision on a hot key", memory.nanos)),
        );
    }
    for (store, need) in [
        ("redis", "limits that processes share"),
        ("memcached", "limits that processes share, where there is a Memcached and eviction may forget"),
        (
            "postgres",
            "limits that processes share, where there is a PostgreSQL; with `Durability::Full`, which is slower, nothing is lost in a crash",
        ),
    ] {
        row(need, store, default_load(report, store).map(|(scenario, library)| {
            let [p50, p99, _] = library.micros.map(micros);
            let rate = number(library.rate);
            format!(
                "{rate} decisions/s, {:.2} of the bare command's; p50 {p50} us, p99 {p99} us ({scenario})",
                library.rate_ratio
            )
        }));
    }
    Table::new("What to choose", &["you need", "take", "in this run"], rows)
}

/// The library by its default algorithm, in the first scenario of a store.
fn default_load<'r>(report: &'r Report, store: &str) -> Option<(&'r str, &'r LoadRow)> {
    let load = report.loads.iter().find(|load| load.store == store)?;
    Some((&load.scenario, load.rows.iter().find(|row| row.name == DEFAULT)?))
}

fn worst(report: &Report, policy: &str) -> Option<f64> {
    let scores = report.traces.iter().flat_map(|trace| &trace.scores);
    scores.filter(|score| score.policy == policy).map(|score| score.worst_window).reduce(f64::max)
}

fn score<'r>(report: &'r Report, trace: &str, policy: &str) -> Option<&'r Score> {
    let trace = report.traces.iter().find(|known| known.name == trace)?;
    trace.scores.iter().find(|score| score.policy == policy)
}

fn cost(report: &Report, policy: &str) -> Option<f64> {
    report.costs.iter().find(|cost| cost.policy == policy).map(|cost| cost.nanos)
}
