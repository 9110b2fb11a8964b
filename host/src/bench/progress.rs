//! One bar on a terminal, one line a measurement elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
    lines: bool,
}

impl Progress {
    /// `steps` measurements are to come.
    pub fn new(steps: usize) -> Self {
        let bar = ProgressBar::new(steps as u64);
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} {wide_msg}");
        // The template is a constant; should it ever be wrong, the default style will do.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            bar,
            lines: !std::io::stderr().is_terminal(),
        }
    }

    /// A measurement begins.
    pub fn begin(&self, what: String) {
        if self.lines {
            eprintln!(
                "[{}/{}] {what}",
                self.bar.position() + 1,
                self.bar.length().unwrap_or(0)
            );
        }
        self.bar.set_message(what);
    }

    /// It is over.
    pub fn end(&self) {
        self.bar.inc(1);
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        match self.lines {
            true => eprintln!("{line}"),
            false => self.bar.println(line),
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
