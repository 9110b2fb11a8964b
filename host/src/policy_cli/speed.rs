//! `bench`: what a policy costs a request.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::Error;
use super::setup::{Conditions, human};
use super::table::{Colour, Paint, Table};

/// `stent policy bench`.
#[derive(Args, Clone, Debug)]
pub struct Bench {
    /// A core module or a component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Calls of each function
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    calls: u32,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    conditions: Conditions,
}

impl Bench {
    pub fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let (config, bench) = self.conditions.open()?;
        let examined = bench.examine(&self.file, &mut |_, _| {});
        let draft = examined.map_err(Error::rejected(&self.file))?;
        let fault = |fault| Error::Fault {
            file: self.file.clone(),
            fault,
        };
        let speeds = bench.measure(&draft, self.calls as usize).map_err(fault)?;
        if self.json {
            serde_json::to_writer_pretty(&mut *out, &speeds).map_err(std::io::Error::other)?;
            writeln!(out)?;
            return Ok(());
        }
        let mut table = Table::new([
            "HOOK", "CALL", "CALLS", "P50 us", "P99 us", "P50 fuel", "P99 fuel",
        ]);
        for figures in speeds.iter().flat_map(|speed| &speed.figures) {
            let cells = [
                figures.hook.to_string(),
                figures.what.to_owned(),
                figures.calls.to_string(),
                format!("{:.1}", figures.p50_us),
                format!("{:.1}", figures.p99_us),
                figures.p50_fuel.to_string(),
                figures.p99_fuel.to_string(),
            ];
            table.row(cells, Colour::Plain, None);
        }
        table.write(Paint::of_stdout(), out)?;
        let limit = human(config.policies.limits.memory);
        for speed in &speeds {
            let (hook, peak) = (speed.hook, human(speed.memory_peak as u64));
            writeln!(
                out,
                "{hook}: at most {peak} of memory in one instance, {limit} are allowed"
            )?;
        }
        writeln!(
            out,
            "fuel: about one for each instruction of the policy, the same on every machine"
        )?;
        Ok(())
    }
}
