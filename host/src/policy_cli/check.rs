//! `check` and `dry-run`: a file by itself, and a file under an operator's conditions.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::Error;
use super::setup::{Conditions, human, show_guest_logs};
use super::table::{Colour, Paint};
use crate::policy::{Draft, Rejection, Stage, VERSION};

/// `stent policy check`.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// A core module or a component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    #[command(flatten)]
    conditions: Conditions,
}

/// `stent policy dry-run`.
#[derive(Args, Clone, Debug)]
pub struct DryRun {
    /// A core module or a component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    #[command(flatten)]
    conditions: Conditions,
}

impl Check {
    pub fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        show_guest_logs();
        let (config, bench, rough) = self.conditions.open_without_model()?;
        let examined = bench.examine(&self.file, &mut |_, _| {});
        let draft = examined.map_err(|rejection| self.advise(rejection, out))?;
        let limits = &config.policies.limits;
        let kind = match draft.is_component {
            true => "a component",
            false => "a core module, which the gateway makes a component of",
        };
        writeln!(out, "{}: {kind}", self.file.display())?;
        for line in self.lines(&draft, limits) {
            writeln!(out, "  {line}")?;
        }
        if rough {
            writeln!(
                out,
                "  tokens     counted roughly: no model is here (--model)"
            )?;
        }
        writeln!(out, "It keeps the contract stent:policy@{VERSION}.")?;
        Ok(())
    }

    fn lines(&self, draft: &Draft, limits: &crate::policy::Limits) -> Vec<String> {
        let mut lines = Vec::new();
        let mut said = Vec::new();
        for served in &draft.served {
            let who = format!("{} {}: {}", served.name, served.version, served.summary);
            if !said.contains(&who) {
                lines.push(format!("policy     {who}"));
                said.push(who);
            }
            let (hook, interface) = (served.hook, served.hook.interface());
            let (peak, most) = (human(served.memory_peak as u64), human(limits.memory));
            lines.push(format!("hook       {hook} ({interface})"));
            lines.push(format!("memory     {peak} when ready, {most} are allowed"));
        }
        lines.push(match draft.imports.is_empty() {
            true => "imports    nothing".into(),
            false => format!("imports    {}", draft.imports.join(", ")),
        });
        let (size, most) = (human(draft.bytes), human(limits.file_bytes));
        lines.push(format!("size       {size}, {most} are allowed"));
        lines.push(format!("sha256     {}", draft.sha256));
        lines
    }

    /// Adds what an author can do about it.
    fn advise(&self, rejection: Rejection, out: &mut dyn Write) -> Error {
        if let Some(advice) = advice(&rejection) {
            // The error is what matters; without the advice it stands alone.
            let _ = writeln!(out, "{advice}");
        }
        Error::rejected(&self.file)(rejection)
    }
}

fn advice(rejection: &Rejection) -> Option<&'static str> {
    let says = |part: &str| rejection.reason.contains(part);
    Some(match rejection.stage {
        Stage::Contract | Stage::Componentize if says("imports") => {
            "A policy has no clock, files, network or randomness: build for \
             wasm32-unknown-unknown, or let the toolchain stub WASI out."
        }
        Stage::Contract if says("is written for") => {
            "Build against the wit/policy.wit of this version; `stent policy new` writes it."
        }
        Stage::Contract if says("export") => {
            "Name the hook's world (guarding, trim, prompt, caching or filtering) when generating \
             bindings, and export what you implemented."
        }
        Stage::Componentize => {
            "The module must be built with bindings for wit/policy.wit (wit-bindgen), which put a \
             description of its interfaces into it."
        }
        Stage::Configure => {
            "It was given policies.HOOK.config, {} where nothing is set: \
             --set policies.HOOK.config.KEY=VALUE gives it something else."
        }
        Stage::SelfTest => "Its own self-test failed with the configuration it was given.",
        _ => return None,
    })
}

impl DryRun {
    pub fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let (config, bench) = self.conditions.open()?;
        let paint = Paint::of_stdout();
        let (mut last, mut unsaid) = (None, Ok(()));
        let mut line = |stage: Stage, colour, word: &str, note: &str| {
            let word = paint.paint(colour, &format!("{word:6}"));
            writeln!(out, "{word}  {:12}  {note}", stage.as_str())
        };
        let tried = bench.dry_run(&self.file, &config.data.dir, &mut |stage, note| {
            last = Some(stage);
            let said = line(stage, Colour::Green, "ok", &note);
            unsaid = std::mem::replace(&mut unsaid, Ok(())).and(said);
        });
        unsaid?;
        let rejection = match tried {
            Ok(_) => return Ok(()),
            Err(rejection) => rejection,
        };
        for stage in between(last, rejection.stage) {
            line(stage, Colour::Green, "ok", "")?;
        }
        line(rejection.stage, Colour::Red, "failed", &rejection.reason)?;
        Err(Error::WouldNotServe {
            file: self.file.clone(),
            stage: rejection.stage,
        })
    }
}

/// The stages of a probe before the one that failed: they are told together once all have passed.
fn between(last: Option<Stage>, failed: Stage) -> impl Iterator<Item = Stage> {
    let probe = [
        Stage::Instantiate,
        Stage::Describe,
        Stage::Configure,
        Stage::SelfTest,
    ];
    let at = probe.iter().position(|&stage| stage == failed);
    let passed = at.filter(|_| last == Some(Stage::Compile)).unwrap_or(0);
    probe.into_iter().take(passed)
}
