//! How far it is, for those who watch.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// A bar on a terminal; elsewhere nothing.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

/// What is measured without a store, and with each.
const ALONE: usize = 2;
const BY_STORE: usize = 1 + crate::under_load::STEPS;

impl Progress {
    pub(crate) fn new(stores: usize) -> Self {
        let bar = ProgressBar::new((ALONE + stores * BY_STORE) as u64);
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = "{bar:32} {pos:>2}/{len} {elapsed_precise} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// The next part begins.
    pub(crate) fn step(&self, what: &str) {
        if !self.0.message().is_empty() {
            self.0.inc(1);
        }
        self.0.set_message(what.to_owned());
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
