//! `stent doctor`: everything that a start needs and an operator forgets, looked at one by one,
//! before a gateway serves or while it does. It changes nothing: no file is written, no port is kept.
//!
//! Facts are gathered apart from what is thought of them, so that every judgement can be tested
//! with facts that this machine does not have.

mod machine;
mod memory;
mod model;
mod places;
mod remote;
mod report;
mod running;

use std::io::Write;

use crate::config::Config;
pub use report::{Level, Line, Report};

/// How it is looked at.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// Leave out what reads whole models: hashing.
    pub quick: bool,
    pub json: bool,
    /// Colour on a terminal.
    pub colour: bool,
    /// The admin token of a gateway that asks for one.
    pub token: Option<String>,
}

/// Looks at everything and tells it; the worst level decides the exit status.
///
/// # Errors
/// When the report cannot be written.
pub fn run(
    config: Result<(Config, Vec<String>), String>,
    how: &How,
    out: &mut dyn Write,
) -> std::io::Result<Level> {
    let report = match config {
        Ok((config, warnings)) => examine(&config, &warnings, how),
        Err(problem) => Report(vec![Line::bad(
            "config",
            problem,
            "correct the key, then run this again",
        )]),
    };
    match how.json {
        true => writeln!(out, "{}", report.json())?,
        false => report.write(out, how.colour)?,
    }
    Ok(report.worst())
}

/// What `/health` or `/ready` of the gateway with this configuration says; `Err` unless it is 200.
///
/// # Errors
/// What was answered instead, or that nothing was.
pub fn health(config: &Config, ready: bool) -> Result<String, String> {
    let path = if ready { "/ready" } else { "/health" };
    let way = running::Way::public(&config.server);
    match running::ask(config.server.listen, &way, path) {
        Some((200, body)) => Ok(body),
        Some((status, body)) => Err(format!("{path} answers {status}: {body}")),
        None => Err(format!("nobody answers at {}", config.server.listen)),
    }
}

fn examine(config: &Config, warnings: &[String], how: &How) -> Report {
    let mut lines = vec![Line::good("config", "every key is known and in range")];
    let hint = "look the key up in docs/configuration.md";
    lines.extend(warnings.iter().map(|w| Line::warn("config", w, hint)));

    let running = running::look(&config.server, how.token.as_deref());
    let facts = machine::Facts::here(&config.data.dir);
    let header = model::header(&config.engine);
    let needs = memory::Needs::of(config, header.as_ref().and_then(|h| h.as_ref().ok()));

    lines.extend(machine::cores(&facts, &config.engine));
    lines.push(machine::code(&facts, &config.engine));
    lines.extend(memory::memory(&facts, &needs, running.serves()));
    lines.push(memory::lock(&facts, &config.engine, needs.model, &running));
    lines.push(machine::huge_pages(&facts));
    lines.push(machine::descriptors(&facts));
    lines.extend(places::disk(&config.data.dir));
    lines.push(places::sessions(config));
    lines.extend(running.lines());
    lines.extend(places::certificates(&config.server));
    if let Some(header) = &header {
        lines.extend(model::lines(header, &config.engine, how.quick));
    }
    lines.extend(model::tokenizer(&config.engine));
    lines.extend(places::policies(config));
    lines.extend(remote::lines(config));
    Report(lines)
}
