//! Only the hidden probe of CPU code so far.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match (args.next(), args.next()) {
        (Some(command), Some(file)) if command == stent::engine::cpu::PROBE_COMMAND => {
            stent::engine::cpu::probe_child_main(Path::new(&file))
        }
        _ => ExitCode::FAILURE,
use clap::Parser;

#[derive(Parser)]
#[command(name = "stent", version)]
enum Command {
    /// Measure a chat server, or two side by side
    Bench(stent::bench::Args),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Bench(args) => Ok(stent::bench::run(args)?),
    }
}
