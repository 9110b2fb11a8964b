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
