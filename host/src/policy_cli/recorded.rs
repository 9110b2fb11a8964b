//! `replay`: a candidate beside what a gateway has recorded.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::setup::Conditions;
use super::{Error, diff};
use crate::policy::Difference;

/// `stent policy replay`.
#[derive(Args, Clone, Debug)]
pub struct Replay {
    /// The candidate: a core module or a component
    #[arg(value_name = "CANDIDATE.wasm")]
    file: PathBuf,
    /// What the gateway wrote (policies.record)
    #[arg(long, value_name = "FILE")]
    recording: PathBuf,
    /// Differences of each hook that are shown
    #[arg(long, default_value_t = 3, value_name = "N")]
    show: usize,
    /// Print the comparison as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    conditions: Conditions,
}

impl Replay {
    pub fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let (_, bench) = self.conditions.open()?;
        let examined = bench.examine(&self.file, &mut |_, _| {});
        let draft = examined.map_err(Error::rejected(&self.file))?;
        let replay = bench.replay(&draft, &self.recording, self.show)?;
        let failed: u64 = replay.hooks.values().map(|hook| hook.failed).sum();
        if self.json {
            serde_json::to_writer_pretty(&mut *out, &replay).map_err(std::io::Error::other)?;
            writeln!(out)?;
        } else {
            for (hook, compared) in &replay.hooks {
                let (same, different) = (compared.same, compared.different);
                let failed = compared.failed;
                writeln!(
                    out,
                    "{hook}: {same} same, {different} different, {failed} failed"
                )?;
                for difference in &compared.first {
                    show(difference, out)?;
                }
            }
            if replay.others > 0 {
                let others = replay.others;
                writeln!(
                    out,
                    "{others} calls are of hooks that the candidate does not serve"
                )?;
            }
            if replay.unreadable > 0 {
                writeln!(out, "{} lines are no recorded calls", replay.unreadable)?;
            }
        }
        match failed {
            0 => Ok(()),
            _ => Err(Error::Failed(format!(
                "{} failed in {failed} of the recorded calls",
                self.file.display()
            ))),
        }
    }
}

fn show(difference: &Difference, out: &mut dyn Write) -> std::io::Result<()> {
    let (line, policy) = (difference.line, &difference.policy);
    writeln!(out, "  line {line}, recorded from {policy}:")?;
    match &difference.candidate {
        Err(fault) => writeln!(out, "    the candidate failed: {fault}"),
        Ok(answer) => {
            for line in diff::lines(&readable(&difference.recorded), &readable(answer)) {
                writeln!(out, "    {line}")?;
            }
            Ok(())
        }
    }
}

/// A prompt's tokens say nothing to people, unless nothing else differs.
fn readable(answer: &Value) -> Value {
    match (&answer["text"], &answer["tokens"]) {
        (Value::String(text), Value::Array(tokens)) => {
            let stop = &answer["stop"];
            let end = match stop.as_array().is_none_or(Vec::is_empty) {
                true => String::new(),
                false => format!("\n(stops at {stop})"),
            };
            let count = tokens.len();
            serde_json::json!({ "prompt": format!("{text}{end}\n({count} tokens)") })
        }
        _ => answer.clone(),
    }
}
