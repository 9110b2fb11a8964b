//! The live screen: asks, draws, waits for a key or the next look.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::levels::Watched;
use super::sample::{Rates, Sample};
use super::terminal::Terminal;
use super::view;
use crate::policy_cli::{Colour, Error, Paint, Remote};

pub fn run(remote: &Remote, interval: Duration) -> Result<(), Error> {
    // Before the screen is taken: who asks in vain is told on the screen that stays.
    let mut shown = Sample::ask(remote)?;
    let Some(mut terminal) = Terminal::take()? else {
        let told = "stent top needs a terminal as its standard output; stent status does not";
        return Err(Error::Failed(told.into()));
    };
    let mut rates = Rates::default();
    let mut lost: Option<String> = None;
    let paint = Paint::of_stdout();
    loop {
        let watched = Watched::of(&shown, &rates);
        let mut text = view::screen(&shown, &rates, &watched, paint);
        if let Some(lost) = &lost {
            text = format!("{}\n{text}", paint.paint(Colour::Red, lost));
        }
        terminal.draw(&text)?;
        match terminal.quit.recv_timeout(interval) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
            // No keyboard: a signal ends it.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(interval),
        }
        match Sample::ask(remote) {
            Ok(sample) => {
                rates = sample.since(&shown);
                (shown, lost) = (sample, None);
            }
            // It may be restarting: what is shown is what was last known.
            Err(error) => lost = Some(error.to_string()),
        }
    }
}
