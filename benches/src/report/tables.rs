//! The figures as tables, which HTML and Markdown both show.

use super::{InProcess, Load, Report, Weights};
use crate::accuracy::Score;

/// A table of text; the first column is left, the others are right.
pub(super) struct Table {
    pub(super) caption: String,
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(caption: &str, head: &[&str], rows: Vec<Vec<String>>) -> Self {
        let head = head.iter().map(|&name| name.to_owned()).collect();
        Self { caption: caption.to_owned(), head, rows }
    }

    /// Whether a column is of figures, which are right, and not of words.
    pub(super) fn is_of_figures(&self, column: usize) -> bool {
        let is_figure =
            |cell: &String| cell.len() < 20 && cell.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        column > 0 && self.rows.iter().all(|row| row.get(column).is_none_or(is_figure))
    }
}

/// One figure of every policy and trace: policies are rows, traces are columns.
fn by_trace(report: &Report, caption: &str, figure: impl Fn(&Score) -> String) -> Table {
    let traces = report.traces.iter().map(|trace| trace.name.as_str());
    let head: Vec<&str> = std::iter::once("").chain(traces).collect();
    let policies = report.traces.first().map_or(0, |trace| trace.scores.len());
    let row = |policy: usize| {
        let scores: Vec<&Score> = report.traces.iter().filter_map(|trace| trace.scores.get(policy)).collect();
        let name = scores.first().map_or("", |score| &score.policy).to_owned();
        std::iter::once(name).chain(scores.into_iter().map(&figure)).collect()
    };
    Table::new(caption, &head, (0..policies).map(row).collect())
}

/// What the traces came to.
pub(super) fn accuracy(report: &Report) -> Vec<Table> {
    let mut unevenness =
        by_trace(report, "Unevenness of what started (0: as much in each tenth of a window)", |s| {
            format!("{:.2}", s.unevenness)
        });
    let offered = report.traces.iter().map(|trace| format!("{:.2}", trace.unevenness));
    unevenness.rows.insert(0, std::iter::once("(offered)".to_owned()).chain(offered).collect());
    vec![
        by_trace(report, "Worst window: the most that started in any window, in limits", |score| {
            format!("{:.2}", score.worst_window)
        }),
        by_trace(report, "Admitted, of those offered", |score| {
            let share = 100.0 * crate::float(score.admitted) / crate::float(score.offered);
            format!("{} ({share:.0} %)", grouped(score.admitted))
        }),
        by_trace(report, "Denied", |score| grouped(score.denied)),
        by_trace(report, "Fairness in time (1: it did not matter when one asked)", |score| {
            score.fairness.map_or_else(|| "-".to_owned(), |fairness| format!("{fairness:.2}"))
        }),
        unevenness,
    ]
}

/// What a key and a decision cost: a row per policy.
pub(super) fn costs(report: &Report) -> Table {
    let mut head = vec!["", "ns per decision"];
    head.extend(report.weights.iter().map(|weights| weights.store.as_str()));
    let policies = report.weights.first().map_or_else(
        || report.costs.iter().map(|cost| cost.policy.clone()).collect::<Vec<_>>(),
        |weights| weights.bytes.iter().map(|weight| weight.policy.clone()).collect(),
    );
    let row = |policy: String| {
        // A log is weighed by how much is in it.
        let is_of = |name: &str| {
            policy.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.contains("admission"))
        };
        let nanos = report.costs.iter().find(|cost| is_of(&cost.policy));
        let nanos = nanos.map_or_else(|| "-".to_owned(), |cost| format!("{:.1}", cost.nanos));
        let bytes = report.weights.iter().map(|weights| {
            let weight = weights.bytes.iter().find(|weight| weight.policy == policy);
            weight.map_or_else(|| "-".to_owned(), |weight| format!("{:.0}", weight.bytes))
        });
        let bytes: Vec<_> = bytes.collect();
        std::iter::once(policy.clone()).chain([nanos]).chain(bytes).collect()
    };
    let caption = if report.weights.is_empty() {
        "A decision by itself"
    } else {
        "A decision by itself, and bytes per key of 24 bytes in each store"
    };
    Table::new(caption, &head, policies.into_iter().map(row).collect())
}

/// In this process: a row per contestant, columns by pattern of keys.
pub(super) fn in_process(caption: &str, patterns: &[InProcess]) -> Table {
    let columns = patterns.iter().map(|pattern| pattern.keys.as_str());
    let head: Vec<&str> = std::iter::once("ns per decision (ratio)").chain(columns).collect();
    let names = patterns.first().map_or(&[][..], |pattern| &pattern.rows);
    let row = |name: &String| {
        let figure = |pattern: &InProcess| {
            let row = pattern.rows.iter().find(|row| row.name == *name);
            row.map_or_else(|| "-".to_owned(), |row| format!("{:.0} ({:.2})", row.nanos, row.ratio))
        };
        std::iter::once(name.clone()).chain(patterns.iter().map(figure)).collect()
    };
    Table::new(caption, &head, names.iter().map(|row| &row.name).map(row).collect())
}

/// Bytes per key of those who are in a file of peers.
pub(super) fn weights(weights: &Weights) -> Table {
    let row = |weight: &super::Weight| vec![weight.policy.clone(), format!("{:.0}", weight.bytes)];
    let caption = format!("{}, by {}", weights.store, weights.counted_by);
    Table::new(&caption, &["", "bytes per key"], weights.bytes.iter().map(row).collect())
}

/// A closed loop.
pub(super) fn load(load: &Load) -> Table {
    let row = |row: &super::LoadRow| {
        let [p50, p99, p999] = row.micros.map(micros);
        let ratio = |ratio: f64| format!("{ratio:.2}");
        vec![
            row.name.clone(),
            grouped_float(row.rate),
            ratio(row.rate_ratio),
            p50,
            p99,
            p999,
            ratio(row.p50_ratio),
        ]
    };
    let head = ["", "answers/s", "ratio", "p50 us", "p99 us", "p99.9 us", "p50 ratio"];
    Table::new(&load.scenario, &head, load.rows.iter().map(row).collect())
}

/// All open loops of a store.
pub(super) fn open(open: &super::Open) -> Table {
    let rows = open.steps.iter().flat_map(|step| step.rows.iter().map(move |row| (step, row)));
    let row = |(step, row): (&super::OpenStep, &super::LoadRow)| {
        let [p50, p99, p999] = row.micros.map(micros);
        vec![row.name.clone(), grouped_float(step.offered), grouped_float(row.rate), p50, p99, p999]
    };
    let head = ["", "offered/s", "answered/s", "p50 us", "p99 us", "p99.9 us"];
    Table::new(&open.scenario, &head, rows.map(row).collect())
}

/// Where it ran.
pub(super) fn setting(report: &Report) -> Table {
    let setting = &report.setting;
    let rows = [
        ("command", setting.command.clone()),
        ("date", setting.date.clone()),
        ("commit", setting.commit.clone()),
        ("machine", setting.machine.clone()),
        ("system", setting.system.clone()),
        ("load average at the start", setting.busy.clone()),
        ("versions", setting.versions.join(", ")),
        ("other crates", report.peers.versions.join(", ")),
    ];
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    Table::new("", &["", ""], rows.map(|(name, value)| vec![name.to_owned(), value]).collect())
}

/// A latency: a digit after the point where it says something.
pub(super) fn micros(micros: f64) -> String {
    if micros < 100.0 { format!("{micros:.1}") } else { grouped_float(micros) }
}

fn grouped_float(value: f64) -> String {
    let text = format!("{value:.0}");
    text.parse().map_or(text, grouped)
}

/// `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn digits_go_in_threes() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
