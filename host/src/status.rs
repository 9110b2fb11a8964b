//! `stent status` and `stent top`: a running gateway on the terminal, once or live, read from its
//! admin address and held against the watch-list.

mod levels;
mod sample;
mod terminal;
mod top;
mod view;

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

pub use levels::{Level, Watched};
pub use sample::Sample;

use crate::policy_cli::{Error, Paint, Remote};
use sample::Rates;

/// Time between the two looks that `status` takes: tokens a second and CPU need both.
const APART: Duration = Duration::from_millis(500);

/// Shows how a running gateway is: 0 all good or a warning, 2 critical or not ready, 1 no answer.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    remote: Remote,
}

/// Shows it live, until q.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    remote: Remote,
    /// Seconds between two looks
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|s| (0.1..=3600.0).contains(s));
    let seconds = seconds.ok_or("expected seconds, 0.1 to 3600")?;
    Ok(Duration::from_secs_f64(seconds))
}

/// `stent status`. True: it is ready, and nothing is critical.
///
/// # Errors
/// When no gateway answers.
pub fn status(args: &StatusArgs, out: &mut dyn Write) -> Result<bool, Error> {
    let before = Sample::ask(&args.remote)?;
    std::thread::sleep(APART);
    let sample = Sample::ask(&args.remote)?;
    let rates = sample.since(&before);
    let watched = Watched::of(&sample, &rates);
    match args.remote.json() {
        true => writeln!(out, "{:#}", as_json(sample.value(), &rates, &watched))?,
        false => {
            out.write_all(view::screen(&sample, &rates, &watched, Paint::of_stdout()).as_bytes())?
        }
    }
    Ok(sample.ready() && watched.worst() != Level::Critical)
}

/// `stent top`.
///
/// # Errors
/// When standard output is no terminal, or no gateway answers at first.
pub fn top(args: &TopArgs) -> Result<(), Error> {
    top::run(&args.remote, args.interval)
}

/// The gateway's own words, and what they come to.
fn as_json(answer: &Value, rates: &Rates, watched: &Watched) -> Value {
    let mut all = answer.clone();
    if let Value::Object(fields) = &mut all {
        fields.insert("rates".into(), json!(rates));
        fields.insert("watch".into(), json!(watched));
        fields.insert("level".into(), json!(watched.worst()));
    }
    all
}
