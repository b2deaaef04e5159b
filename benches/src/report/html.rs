//! A report as one HTML file that needs nothing else: no script, no network, light or dark as the reader's system is.

use super::charts::{self, Chart};
use super::svg::{COLOURS, escaped};
use super::tables::{self, Table};
use super::{Report, advice};
use std::fmt::Write;

/// A part of the report.
pub(super) struct Section {
    pub(super) title: String,
    pub(super) intro: String,
    charts: Vec<Chart>,
    pub(super) tables: Vec<Table>,
    /// Plots that take the whole width.
    is_wide: bool,
}

/// The parts that this report has figures for.
pub(super) fn sections(report: &Report) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut section = |title: &str, intro: String, charts: Vec<Chart>, tables: Vec<Table>, is_wide: bool| {
        sections.push(Section { title: title.to_owned(), intro, charts, tables, is_wide });
    };
    if !report.traces.is_empty() {
        let intro = format!(
            "The same traffic through every algorithm, {} each, in virtual time and one request at a time: the same \
             figures on every machine, and in every store. A request of the leaky bucket starts at the turn it is given, \
             all others when they are admitted. The worst window is the most that started in any interval of a window's \
             length, wherever it begins; the line is the limit. Fairness in time is Jain's index of the share that was \
             admitted, over the tenths of a window in which something was offered. Unevenness is the coefficient of \
             variation of what started in each tenth of a window.",
            report.quota
        );
        section("How exact they are", intro, charts::worst_windows(report), tables::accuracy(report), false);
        let intro = "What was offered, and when what was admitted started: all of a short trace, a part of a long one.";
        section("What it looks like", intro.to_owned(), charts::timelines(report), Vec::new(), true);
    }
    if !report.costs.is_empty() {
        let how = report.weights.iter().map(|weights| format!("{} by {}", weights.store, weights.counted_by));
        let how: Vec<_> = how.collect();
        let mut intro =
            "The time of a decision is core's function on the steady trace, without a store.".to_owned();
        if !how.is_empty() {
            let _ = write!(intro, " Memory is counted in {}.", how.join("; in "));
        }
        section("What a key and a decision cost", intro, Vec::new(), vec![tables::costs(report)], false);
    }
    if !report.in_process.is_empty() {
        let intro = "From the key's text to the decision, against an increment in a `HashMap` behind a `Mutex`, which \
                     decides nothing and forgets nothing.";
        section(
            "In this process",
            intro.to_owned(),
            Vec::new(),
            vec![tables::in_process("One thread", &report.in_process)],
            false,
        );
    }
    for store in stores(report) {
        let loads: Vec<_> = report.loads.iter().filter(|load| load.store == store).collect();
        let open: Vec<_> = report.open.iter().filter(|open| open.store == store).collect();
        let intro = "Closed loops on a server of its own: each caller asks again as soon as it is answered. The first \
                     row is the bare command through the same driver; contestants take turns, and ratios are medians \
                     within a repetition. Open loops: requests come when they are due, whether or not those before are \
                     answered, and latency counts from then; rates are shares of what the slower of the two reached in \
                     the first closed loop. The library is the store with what carries many requests in one trip, and \
                     without the layers for stores that fail, whose cost `--bin redis` tells. Redis persists nothing; \
                     PostgreSQL commits asynchronously, also the bare command's rows.";
        let plots =
            loads.iter().map(|load| charts::load(load)).chain(open.iter().map(|open| charts::open(open)));
        let figures =
            loads.iter().map(|load| tables::load(load)).chain(open.iter().map(|open| tables::open(open)));
        let title = format!("{store} under load");
        section(&title, intro.to_owned(), plots.collect(), figures.collect(), false);
    }
    let peers = &report.peers;
    if *peers != super::Peers::default() {
        let intro = "Other crates, set up as their authors recommend and asked for the same, in runs of their own: \
                     ratios are to the first row and hold within a table. What each of them does, and what it does not, \
                     is in `benches/peers`.";
        let mut figures = Vec::new();
        if !peers.in_process.is_empty() {
            figures.push(tables::in_process("In this process", &peers.in_process));
        }
        figures.extend(peers.weights.iter().map(tables::weights));
        figures.extend(peers.loads.iter().map(|load| {
            let table = tables::load(load);
            Table { caption: format!("{}: {}", load.store, table.caption), ..table }
        }));
        let plots = peers.loads.iter().map(charts::load).collect();
        section("Other crates", intro.to_owned(), plots, figures, false);
    }
    sections
}

/// The stores that were under load, in the order in which they were.
fn stores(report: &Report) -> Vec<&str> {
    let mut stores: Vec<_> = report.loads.iter().map(|load| load.store.as_str()).collect();
    stores.dedup();
    stores
}

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut page = String::new();
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Algorithms and stores, compared</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n\
         <h1>Algorithms and stores, compared</h1>\n<p class=\"lead\">{} &middot; {} &middot; commit {}</p>\n",
        style(),
        escaped(&report.setting.date),
        escaped(&report.setting.machine),
        escaped(&report.setting.commit),
    );
    for section in sections(report) {
        let _ = write!(page, "<section>\n<h2>{}</h2>\n<p>{}</p>\n", section.title, prose(&section.intro));
        if !section.charts.is_empty() {
            page.push_str(if section.is_wide { "<div class=\"wide\">\n" } else { "<div class=\"plots\">\n" });
            for Chart { caption, svg } in &section.charts {
                let caption = escaped(caption);
                let _ = writeln!(page, "<figure><figcaption>{caption}</figcaption>{svg}</figure>");
            }
            page.push_str("</div>\n");
        }
        for table in &section.tables {
            write_table(&mut page, table);
        }
        page.push_str("</section>\n");
    }
    page.push_str("<section>\n<h2>Where it ran</h2>\n");
    write_table(&mut page, &tables::setting(report));
    page.push_str("</section>\n<section>\n<h2>What to choose</h2>\n");
    write_table(&mut page, &Table { caption: String::new(), ..advice::table(report) });
    page.push_str("</section>\n</main>\n</body>\n</html>\n");
    page
}

fn write_table(page: &mut String, table: &Table) {
    page.push_str("<div class=\"scroll\"><table>\n");
    if !table.caption.is_empty() {
        let _ = writeln!(page, "<caption>{}</caption>", escaped(&table.caption));
    }
    let line = |cells: &[String], tag: &str| {
        let cells = cells.iter().enumerate().map(|(column, cell)| {
            let class = if table.is_of_figures(column) { " class=\"n\"" } else { "" };
            format!("<{tag}{class}>{}</{tag}>", escaped(cell))
        });
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    if table.head.iter().any(|name| !name.is_empty()) {
        let _ = writeln!(page, "<thead>{}</thead>", line(&table.head, "th"));
    }
    page.push_str("<tbody>\n");
    for row in &table.rows {
        let _ = writeln!(page, "{}", line(row, "td"));
    }
    page.push_str("</tbody></table></div>\n");
}

/// Text with code in backticks.
fn prose(text: &str) -> String {
    let parts = escaped(text);
    let parts = parts.split('`').enumerate();
    parts.map(|(i, part)| if i % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() }).collect()
}

fn style() -> String {
    let mut style = include_str!("style.css").to_owned();
    for colour in 0..COLOURS {
        let _ = write!(style, ".f{colour}{{fill:var(--c{colour})}}.s{colour}{{stroke:var(--c{colour})}}");
    }
    style
}
