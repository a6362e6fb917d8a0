//! What the user sees while a run goes on: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::report::event_line;
use crate::runner::record::{Event, EventKind};
use crate::workload::client::LoadCounts;

/// Shows a run.
pub(super) struct Progress {
    is_quiet: bool,
    /// Absent where the output is no terminal, and before the load.
    bar: Option<ProgressBar>,
    /// When the load began: the zero of the printed times.
    origin_ns: Option<u64>,
}

impl Progress {
    pub(super) fn new(is_quiet: bool) -> Self {
        Self { is_quiet, bar: None, origin_ns: None }
    }

    /// Prints a line of its own.
    pub(super) fn line(&self, text: &str) {
        if self.is_quiet {
            return;
        }
        match &self.bar {
            Some(bar) => bar.println(text),
            // A closed terminal is no reason to end the run.
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    pub(super) fn event(&mut self, event: &Event) {
        if event.kind == EventKind::Phase && event.subject == "load" {
            self.origin_ns = Some(event.at_ns);
        }
        if event.kind == EventKind::Phase && event.subject == "settle" {
            self.finish();
        }
        self.line(&event_line(event, self.origin_ns));
    }

    pub(super) fn progress(&mut self, at: Duration, of: Duration, counts: LoadCounts) {
        if self.is_quiet || !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("  {bar:30} {pos}/{len} s  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        bar.set_length(of.as_secs());
        bar.set_position(at.as_secs().min(of.as_secs()));
        bar.set_message(format!(
            "{} answered, {} refused, {} open",
            counts.answered, counts.refused, counts.unknown
        ));
    }

    /// Takes the bar away.
    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
