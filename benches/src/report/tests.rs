use super::*;
use crate::accuracy::{self, Trace};
use std::time::Duration;

fn turns(rates: &[f64]) -> Turns {
    let turn = |rate: &f64| {
        let mut latency = hdrhistogram::Histogram::new_with_bounds(1, 10_000_000_000, 3)
            .unwrap_or_else(|error| panic!("{error}"));
        (1..=100).for_each(|ms| latency.saturating_record(ms * 1_000_000));
        Turn { rate: *rate, latency }
    };
    Turns(rates.iter().map(turn).collect())
}

/// A small report of everything, with markup in a name.
fn small() -> Report {
    let window = Duration::from_secs(1);
    let policies = accuracy::policies(10, window).unwrap_or_else(|error| panic!("{error}"));
    let traces = Trace::made(10, window);
    let contestants =
        [("INCR", turns(&[100.0, 300.0, 200.0])), ("token-bucket", turns(&[50.0, 150.0, 120.0]))];
    let load = Load::new("redis", "64 <callers> | all", &contestants);
    let step = |offered| OpenStep { offered, rows: load.rows.clone() };
    let in_process = vec![InProcess {
        keys: "hot".to_owned(),
        rows: vec![InProcessRow { name: "Memory, token-bucket".to_owned(), nanos: 50.0, ratio: 1.5 }],
    }];
    let weights = vec![Weights {
        store: "memory".to_owned(),
        counted_by: "the allocator".to_owned(),
        bytes: vec![Weight { policy: "token-bucket".to_owned(), bytes: 96.4 }],
    }];
    Report {
        setting: Setting::here("cargo run".to_owned()),
        quota: "10 per 1s".to_owned(),
        traces: traces.iter().map(|trace| accuracy::judge(trace, &policies)).collect(),
        costs: accuracy::cost::measure(&traces[2], &policies, 1),
        open: vec![Open {
            store: "redis".to_owned(),
            scenario: "due".to_owned(),
            steps: vec![step(10.0), step(20.0)],
        }],
        peers: Peers {
            versions: vec!["governor 0.10.4".to_owned()],
            in_process: in_process.clone(),
            weights: weights.clone(),
            loads: vec![load.clone()],
        },
        in_process,
        weights,
        loads: vec![load],
    }
}

#[test]
fn medians_of_turns_and_of_ratios_within_a_repetition() {
    let report = small();
    let row = &report.loads[0].rows[1];
    assert!((row.rate - 120.0).abs() < 1e-9);
    // 0.5, 0.5 and 0.6: not 120 of 200.
    assert!((row.rate_ratio - 0.5).abs() < 1e-9);
    let [p50, p99, p999] = row.micros;
    assert!(
        (p50 - 50_000.0).abs() < 100.0 && (p99 - 99_000.0).abs() < 100.0 && (p999 - 100_000.0).abs() < 100.0
    );
}

#[test]
fn json_is_the_whole_report() -> Result<(), serde_json::Error> {
    let report = small();
    assert_eq!(serde_json::from_str::<Report>(&serde_json::to_string(&report)?)?, report);
    Ok(())
}

#[test]
fn the_page_needs_nothing_and_is_well_formed() {
    let page = html::page(&small());
    for outside in ["http://", "https://", "<script", "src=", "url(", "@import", "NaN", "inf"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
    assert!(page.contains("64 &lt;callers&gt;") && !page.contains("64 <callers>"));
    let mut open = Vec::new();
    for tag in page.split('<').skip(1).filter_map(|rest| rest.split_once('>').map(|(tag, _)| tag)) {
        let name = tag.split_whitespace().next().unwrap_or_default();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
            None if tag.ends_with('/') || ["!doctype", "meta"].contains(&name) => {}
            None => open.push(name),
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn markdown_has_every_table_with_cells_for_its_head() {
    let page = markdown::page(&small());
    let mut columns = None;
    for line in page.lines() {
        let cells = line.replace("\\|", "").matches('|').count();
        if line.starts_with('|') {
            assert_eq!(*columns.get_or_insert(cells), cells, "{line}");
        } else {
            columns = None;
        }
    }
    for part in [
        "How exact they are",
        "| sliding-log | 1.00 |",
        "64 <callers>",
        "redis under load",
        "Other crates",
        "What to choose",
        "Where it ran",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn a_row_has_the_figures_of_its_name() {
    let row = |name: &str, nanos| InProcessRow { name: name.to_owned(), nanos, ratio: 1.0 };
    let pattern = |keys: &str, rows| InProcess { keys: keys.to_owned(), rows };
    let patterns = [
        pattern("a", vec![row("one", 1.0), row("two", 2.0), row("three", 3.0)]),
        pattern("b", vec![row("three", 30.0), row("one", 10.0)]),
    ];
    let rows = tables::in_process("", &patterns).rows;
    let cells =
        [["one", "1 (1.00)", "10 (1.00)"], ["two", "2 (1.00)", "-"], ["three", "3 (1.00)", "30 (1.00)"]];
    assert_eq!(rows, cells);
}

#[test]
fn a_report_of_nothing_is_a_page_too() {
    let (html, markdown) = (html::page(&Report::default()), markdown::page(&Report::default()));
    assert!(html.contains("Where it ran") && markdown.contains("Where it ran"));
}
