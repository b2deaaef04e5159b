//! Plots as SVG text: colours are the page's variables, so that they follow its light or dark scheme.

use std::fmt::Write;

/// A row of a bar chart.
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    /// What is written behind it.
    pub(super) text: String,
    /// The number of a colour.
    pub(super) colour: usize,
}

/// A series of a line chart.
pub(super) struct Line {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) colour: usize,
    pub(super) dashed: bool,
}

/// The number of different colours.
pub(super) const COLOURS: usize = 7;

/// Above the mean width of a character at this size, capitals included.
const CHAR: f64 = 7.6;
const ROW: f64 = 22.0;

/// Horizontal bars from zero, with an axis below, and a line across at a value that matters.
pub(super) fn bars(title: &str, axis: &str, most: f64, bars: &[Bar], across: Option<f64>) -> String {
    let longest = |of: &dyn Fn(&Bar) -> usize| bars.iter().map(of).max().unwrap_or(0);
    let left = 12.0 + CHAR * crate::float(longest(&|bar| bar.label.chars().count()) as u64);
    let right = 16.0 + CHAR * crate::float(longest(&|bar| bar.text.chars().count()) as u64);
    let (width, top) = (560.0, 8.0);
    let plot = width - left - right;
    let bottom = top + ROW * crate::float(bars.len() as u64);
    let ticks = ticks(most);
    let most = ticks.last().copied().unwrap_or(1.0).max(most);
    let x = |value: f64| left + plot * value / most;
    let mut svg = open(title, width, bottom + 40.0);
    for tick in &ticks {
        let x = x(*tick);
        line(&mut svg, "grid", (x, top), (x, bottom));
        text(&mut svg, "tick", "middle", (x, bottom + 14.0), &number(*tick));
    }
    text(&mut svg, "axis", "middle", (left + plot / 2.0, bottom + 32.0), axis);
    for (place, bar) in bars.iter().enumerate() {
        let y = top + ROW * crate::float(place as u64);
        text(&mut svg, "label", "end", (left - 8.0, y + 15.0), &bar.label);
        let length = x(bar.value) - left;
        let _ = write!(
            svg,
            r#"<rect class="f{}" x="{left:.1}" y="{:.1}" width="{length:.1}" height="{:.1}" rx="2"/>"#,
            bar.colour % COLOURS,
            y + 3.0,
            ROW - 6.0
        );
        text(&mut svg, "value", "start", (left + length + 6.0, y + 15.0), &bar.text);
    }
    if let Some(value) = across {
        line(&mut svg, "mark", (x(value), top), (x(value), bottom));
    }
    close(svg)
}

/// Lines over a linear axis, on a logarithmic one.
pub(super) fn lines(title: &str, x_axis: &str, y_axis: &str, series: &[Line]) -> String {
    let (width, height, left, top): (f64, f64, f64, f64) = (560.0, 300.0, 64.0, 12.0);
    let (right, bottom) = (width - 16.0, height - 46.0);
    let points = || series.iter().flat_map(|line| &line.points);
    let most_x = points().fold(0.0, |most: f64, point| most.max(point.0));
    let ticks_x = ticks(most_x);
    let most_x = ticks_x.last().copied().unwrap_or(1.0).max(most_x);
    let low = points().fold(f64::INFINITY, |low: f64, point| low.min(point.1)).max(1e-9).log10().floor();
    let high = points().fold(0.0, |high: f64, point| high.max(point.1)).max(1e-9).log10().ceil();
    let high = if high > low { high } else { low + 1.0 };
    let x = |value: f64| left + (right - left) * value / most_x;
    let y = |value: f64| bottom - (bottom - top) * (value.max(1e-9).log10() - low) / (high - low);
    let legend = height + ROW * crate::float(series.len() as u64);
    let mut svg = open(title, width, legend);
    for tick in &ticks_x {
        line(&mut svg, "grid", (x(*tick), top), (x(*tick), bottom));
        text(&mut svg, "tick", "middle", (x(*tick), bottom + 16.0), &number(*tick));
    }
    let mut power = low;
    while power <= high {
        let value = 10_f64.powf(power);
        line(&mut svg, "grid", (left, y(value)), (right, y(value)));
        text(&mut svg, "tick", "end", (left - 8.0, y(value) + 4.0), &number(value));
        power += 1.0;
    }
    text(&mut svg, "axis", "middle", (f64::midpoint(left, right), bottom + 36.0), x_axis);
    let middle = f64::midpoint(top, bottom);
    let _ = write!(
        svg,
        r#"<text class="axis" text-anchor="middle" transform="translate(14 {middle:.1}) rotate(-90)">{}</text>"#,
        escaped(y_axis)
    );
    for (place, series) in series.iter().enumerate() {
        let (colour, dash) = (series.colour % COLOURS, if series.dashed { " dashed" } else { "" });
        let path: Vec<_> = series.points.iter().map(|p| format!("{:.1} {:.1}", x(p.0), y(p.1))).collect();
        let _ = write!(svg, r#"<path class="s{colour}{dash}" d="M{}"/>"#, path.join("L"));
        for point in &series.points {
            let (x, y) = (x(point.0), y(point.1));
            let _ = write!(svg, r#"<circle class="f{colour}" cx="{x:.1}" cy="{y:.1}" r="3"/>"#);
        }
        let y = height + 6.0 + ROW * crate::float(place as u64);
        let _ = write!(svg, r#"<path class="s{colour}{dash}" d="M{left} {y:.1}h28"/>"#);
        text(&mut svg, "label", "start", (left + 36.0, y + 4.0), &series.label);
    }
    close(svg)
}

/// Counts over time, a strip per series, all to the same height.
pub(super) fn strips(title: &str, axis: &str, slot: f64, strips: &[(String, &[u64], usize)]) -> String {
    let longest = strips.iter().map(|strip| strip.0.chars().count()).max().unwrap_or(0);
    let left = 44.0 + CHAR * crate::float(longest as u64);
    let (width, top, height, gap) = (760.0, 8.0, 34.0, 10.0);
    let right = width - 12.0;
    let slots = strips.iter().map(|strip| strip.1.len()).max().unwrap_or(0).max(1) as u64;
    let most = strips.iter().flat_map(|strip| strip.1).copied().max().unwrap_or(0).max(1);
    let bottom = top + (height + gap) * crate::float(strips.len() as u64);
    let end = crate::float(slots) * slot;
    let step = (right - left) / crate::float(slots);
    let mut svg = open(title, width, bottom + 40.0);
    for tick in ticks(end).into_iter().filter(|tick| *tick <= end) {
        let x = left + (right - left) * tick / end;
        line(&mut svg, "grid", (x, top), (x, bottom - gap));
        text(&mut svg, "tick", "middle", (x, bottom + 8.0), &number(tick));
    }
    text(&mut svg, "axis", "middle", (f64::midpoint(left, right), bottom + 28.0), axis);
    for (place, (label, counts, colour)) in strips.iter().enumerate() {
        let base = top + height + (height + gap) * crate::float(place as u64);
        text(&mut svg, "label", "end", (left - 34.0, base - 10.0), label);
        text(&mut svg, "tick", "end", (left - 5.0, base - height + 9.0), &most.to_string());
        text(&mut svg, "tick", "end", (left - 5.0, base), "0");
        let mut path = format!("M{left:.1} {base:.1}");
        for count in *counts {
            let y = base - height * crate::float(*count) / crate::float(most);
            let _ = write!(path, "V{y:.1}h{step:.2}");
        }
        let _ = write!(svg, r#"<path class="f{}" d="{path}V{base:.1}Z"/>"#, colour % COLOURS);
        line(&mut svg, "base", (left, base), (right, base));
    }
    close(svg)
}

/// A number of up to three digits and a letter for thousands.
pub(super) fn number(value: f64) -> String {
    let (scaled, letter) = match value.abs() {
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{letter}")
}

/// About five round values from 0 on, the last of which is not below the most.
fn ticks(most: f64) -> Vec<f64> {
    let rough = if most > 0.0 { most / 5.0 } else { 0.2 };
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|m| m * power >= rough * 0.999).unwrap_or(10.0);
    let step = step * power;
    let ticks = (0..).map(|i| crate::float(i) * step);
    let mut all: Vec<f64> = ticks.take_while(|tick| *tick < most * 0.999).collect();
    all.push(crate::float(all.len() as u64) * step);
    all
}

fn open(title: &str, width: f64, height: f64) -> String {
    let title = escaped(title);
    format!(r#"<svg viewBox="0 0 {width:.0} {height:.0}" role="img" aria-label="{title}">"#)
}

fn close(mut svg: String) -> String {
    svg.push_str("</svg>");
    svg
}

fn line(svg: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = write!(svg, r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#);
}

fn text(svg: &mut String, class: &str, anchor: &str, (x, y): (f64, f64), text: &str) {
    let text = escaped(text);
    let _ =
        write!(svg, r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{text}</text>"#);
}

/// Text as it may stand in markup and in its attributes.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_most() {
        assert_eq!(ticks(2.0), [0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(ticks(47_000.0), [0.0, 1e4, 2e4, 3e4, 4e4, 5e4]);
        assert_eq!(ticks(0.0).first(), Some(&0.0));
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 0.25, 1.0, 12.34, 999.6, 1_000.0, 45_678.0, 3_200_000.0].map(number);
        assert_eq!(texts, ["0", "0.25", "1", "12.3", "1000", "1k", "45.7k", "3.2M"]);
    }

    #[test]
    fn what_is_written_is_text_only() {
        let bar = Bar { label: "<b>&\"".to_owned(), value: 1.0, text: String::new(), colour: 0 };
        let svg = bars("a \"title\"", "axis", 1.0, &[bar], Some(1.0));
        assert!(svg.contains("&lt;b&gt;&amp;&quot;") && !svg.contains("<b>"), "{svg}");
    }
}
