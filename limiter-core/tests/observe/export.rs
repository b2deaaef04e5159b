//! What a scrape sees, and what the dashboard and the alerts ask for.

use crate::fake::{Fake, Takes, ask};
use limiter_core::metric::{self, ALL, Kind, Metric};
use limiter_core::{Backend, ErrorKind, Figure, Observe, ObserveTrips};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use saphyr::{LoadableYamlNode, Yaml};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const DASHBOARD: &str = include_str!("../../../observability/grafana-dashboard.json");
const ALERTS: &str = include_str!("../../../observability/prometheus-alerts.yaml");

/// A page that Prometheus scrapes, with every metric on it.
fn page() -> String {
    let exporter = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &metric::SECONDS_BUCKETS)
        .unwrap()
        .set_buckets_for_metric(
            Matcher::Full(metric::TRIP_REQUESTS.name().to_owned()),
            &metric::REQUESTS_BUCKETS,
        )
        .unwrap()
        .build_recorder();
    let fake = Fake::admitting(Takes::So(Duration::from_millis(1)));
    let sampled = ALL.iter().filter(|metric| metric.kind() != Kind::Histogram);
    let is_told_by_observe = [&metric::DECISIONS, &metric::ERRORS, &metric::TRIP_ERRORS].map(Metric::name);
    let own = |metric: &&&'static Metric| !is_told_by_observe.contains(&metric.name());
    let figures = sampled.filter(own).map(|metric| Figure::new(metric, "fake", 3_000_000));
    let labelled = |figure: Figure| match figure.metric().labels() {
        [_, "state"] => figure.in_state("open"),
        [_, "kind"] => figure.of_kind(ErrorKind::Timeout),
        _ => figure,
    };
    fake.figures.lock().unwrap().extend(figures.map(labelled));
    let layer = Observe::new(ObserveTrips::new(fake));
    metrics::with_local_recorder(&exporter, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert!(runtime.block_on(layer.decide(&[ask("user")]))[0].is_ok());
    });
    exporter.handle().render()
}

/// The words of a text that begin as our names do.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("limiter_")).collect()
}

fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let variables = variables.filter_map(|variable| variable["definition"].as_str().map(str::to_owned));
    queries.into_iter().chain(variables).collect()
}

fn alerts() -> Vec<String> {
    let documents = Yaml::load_from_str(ALERTS).unwrap();
    let groups = documents[0].as_mapping_get("groups").unwrap().as_sequence().unwrap();
    let rules = groups.iter().flat_map(|group| group.as_mapping_get("rules").unwrap().as_sequence().unwrap());
    let text = |rule: &Yaml<'_>, field| rule.as_mapping_get(field).and_then(Yaml::as_str).map(str::to_owned);
    rules.map(|rule| text(rule, "expr").unwrap()).collect()
}

#[test]
fn a_scrape_has_every_metric_under_its_name_and_type() {
    let page = page();
    let types: BTreeMap<&str, &str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let kind = |metric: &Metric| match metric.kind() {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        _ => "?",
    };
    let expected: BTreeMap<&str, &str> = ALL.iter().map(|metric| (metric.name(), kind(metric))).collect();
    assert_eq!(types, expected);
    for metric in ALL {
        assert!(page.contains(&format!("# HELP {} {}", metric.name(), metric.help())), "{}", metric.name());
    }
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_what_a_scrape_has() {
    let page = page();
    let samples: BTreeSet<&str> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let (dashboard, alerts) = (dashboard_queries(), alerts());
    assert!(dashboard.len() > 20 && alerts.len() > 10);
    for query in dashboard.iter().chain(&alerts) {
        let asked = names(query);
        assert!(!asked.is_empty(), "{query}");
        assert!(asked.is_subset(&samples), "{query} asks for {:?}", asked.difference(&samples));
    }
}

#[test]
fn the_dashboard_shows_every_metric() {
    let queries = dashboard_queries().join("\n");
    let shown = names(&queries);
    for metric in ALL {
        let is_shown = |name: &&str| {
            let suffix = name.strip_prefix(metric.name());
            suffix.is_some_and(|suffix| ["", "_bucket", "_sum", "_count"].contains(&suffix))
        };
        assert!(shown.iter().any(is_shown), "{} is in no panel", metric.name());
    }
}

/// The labels of each selector and of each `by`.
fn labels(query: &str) -> BTreeSet<&str> {
    let inside = |open, close| {
        query.split(open).skip(1).filter_map(move |part: &str| part.split(close).next()).collect::<Vec<_>>()
    };
    let all = [inside("{", '}'), inside("by (", ')')].concat();
    let items = all.into_iter().flat_map(|inside| inside.split(','));
    items.filter_map(|item| item.split(['=', '!']).next()).map(str::trim).collect()
}

#[test]
fn their_labels_are_those_of_the_metrics() {
    for query in dashboard_queries().iter().chain(&alerts()) {
        let asked = names(query);
        let metrics = ALL.iter().filter(|metric| asked.iter().any(|name| name.starts_with(metric.name())));
        let mut known: BTreeSet<&str> = metrics.flat_map(|metric| metric.labels()).copied().collect();
        known.insert("le");
        let labels = labels(query);
        assert!(!labels.is_empty() || !query.contains('{'), "{query}");
        assert!(labels.is_subset(&known), "{query}: {:?}", labels.difference(&known));
    }
}

#[test]
fn the_values_that_they_ask_for_are_of_the_table() {
    // The rows of labels in the table of the docs.
    let docs = include_str!("../../src/metric.rs");
    for query in dashboard_queries().iter().chain(&alerts()) {
        for text in query.split('"').skip(1).step_by(2).flat_map(|text| text.split('|')) {
            let is_variable = text.starts_with('$');
            assert!(is_variable || docs.contains(&format!("`{text}`")), "{query}: {text:?}");
        }
    }
}
