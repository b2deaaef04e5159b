//! The plots of a report, each with its caption.

use super::svg::{Bar, Line, bars, lines, number, strips};
use super::{Load, Open, Report};
use crate::accuracy::{Score, TraceReport};

/// A plot.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows.
    pub caption: String,
    /// The plot, as SVG.
    pub svg: String,
}

/// The colour of a policy, wherever it appears: those of its names that are an algorithm's, in the order of the traces.
/// Bare commands have none.
fn colour(name: &str) -> usize {
    match name {
        "token-bucket" | "token bucket" => 1,
        "leaky-bucket" => 3,
        "fixed-window" => 4,
        "sliding-log" => 5,
        "sliding-counter" => 6,
        _ if name.starts_with("token-bucket") || name.contains("rule") => 2,
        _ => 0,
    }
}

/// The worst window of every policy, a plot per trace.
#[must_use]
pub fn worst_windows(report: &Report) -> Vec<Chart> {
    let chart = |trace: &TraceReport| {
        let bar = |score: &Score| Bar {
            label: score.policy.clone(),
            value: score.worst_window,
            text: format!("{:.2}", score.worst_window),
            colour: colour(&score.policy),
        };
        let bars_: Vec<Bar> = trace.scores.iter().map(bar).collect();
        let most = bars_.iter().map(|bar| bar.value).fold(2.0, f64::max);
        let caption = format!("{}: {}", trace.name, trace.about);
        Chart { svg: bars(&caption, "most in any window, in limits", most, &bars_, Some(1.0)), caption }
    };
    report.traces.iter().map(chart).collect()
}

/// What started when, a plot per trace.
#[must_use]
pub fn timelines(report: &Report) -> Vec<Chart> {
    let chart = |trace: &TraceReport| {
        let started = trace.scores.iter().enumerate().map(|(i, s)| (s.policy.clone(), &s.started[..], i + 1));
        let rows: Vec<_> =
            std::iter::once(("offered".to_owned(), &trace.offered[..], 0)).chain(started).collect();
        let caption = format!("{}: requests started per {} s", trace.name, number(trace.slot));
        Chart { svg: strips(&caption, "seconds", trace.slot, &rows), caption }
    };
    report.traces.iter().map(chart).collect()
}

/// Answers per second of a closed loop.
#[must_use]
pub fn load(load: &Load) -> Chart {
    let bar = |row: &super::LoadRow| Bar {
        label: row.name.clone(),
        value: row.rate,
        text: format!("{} ({:.2})", number(row.rate), row.rate_ratio),
        colour: colour(&row.name),
    };
    let rows: Vec<Bar> = load.rows.iter().map(bar).collect();
    let most = rows.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let caption = format!("{}: {}", load.store, load.scenario);
    Chart { svg: bars(&caption, "answers per second (ratio to the first)", most, &rows, None), caption }
}

/// Latency over the rate of an open loop: the median dashed, one in a hundred solid.
#[must_use]
pub fn open(open: &Open) -> Chart {
    let names = open.steps.first().map_or(&[][..], |step| &step.rows);
    let series = names.iter().enumerate().flat_map(|(place, row)| {
        [("p99", 1, false), ("p50", 0, true)].map(|(quantile, index, dashed)| Line {
            label: format!("{}, {quantile}", row.name),
            points: open
                .steps
                .iter()
                .filter_map(|s| Some((s.offered, s.rows.get(place)?.micros[index])))
                .collect(),
            colour: colour(&row.name),
            dashed,
        })
    });
    let series: Vec<Line> = series.collect();
    let caption = format!("{}: {}", open.store, open.scenario);
    Chart { svg: lines(&caption, "requests due per second", "latency in us", &series), caption }
}
