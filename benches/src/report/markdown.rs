//! A report as Markdown.

use super::tables::{self, Table};
use super::{Report, advice};
use std::fmt::Write;

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut page = String::from("# Algorithms and stores, compared\n");
    // What is only drawn is on the other page.
    for section in super::html::sections(report).into_iter().filter(|section| !section.tables.is_empty()) {
        let _ = write!(page, "\n## {}\n\n{}\n", section.title, section.intro);
        for table in &section.tables {
            write_table(&mut page, table);
        }
    }
    let _ = write!(page, "\n## Where it ran\n");
    write_table(&mut page, &tables::setting(report));
    page.push_str(&choices(report));
    page
}

/// What to choose, with the figures that say why: the end of the page.
#[must_use]
pub fn choices(report: &Report) -> String {
    let mut text = String::from("\n## What to choose\n");
    write_table(&mut text, &Table { caption: String::new(), ..advice::table(report) });
    text
}

fn write_table(page: &mut String, table: &Table) {
    if !table.caption.is_empty() {
        let _ = write!(page, "\n**{}**\n", table.caption);
    }
    let line =
        |cells: &[String]| format!("| {} |\n", cells.iter().map(|c| cell(c)).collect::<Vec<_>>().join(" | "));
    page.push('\n');
    page.push_str(&line(&table.head));
    let marks =
        (1..table.head.len()).map(|column| if table.is_of_figures(column) { "---:|" } else { "---|" });
    let _ = writeln!(page, "|---|{}", marks.collect::<String>());
    for row in &table.rows {
        page.push_str(&line(row));
    }
}

/// Text as it may stand in a cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
