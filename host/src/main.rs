//! The command line: `stent serve`, `stent doctor`, `stent status`, `stent top`, `stent models`,
//! `stent policy`, `stent sessions`, `stent bench`.

mod serve;
mod sessions_cli;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use stent::access;
use stent::config::{Config, Overrides};

/// Requests are allocated on one thread and freed on another, all the time, which the system's
/// allocator does at an eighth of a request's cost more (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An LLM inference gateway with live-swappable WebAssembly policies.
#[derive(Parser)]
#[command(name = "stent", version = version())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load the model and serve requests
    Serve(Box<ServeArgs>),
    /// Look at everything that serving needs, before or while it serves
    #[command(after_help = "Exit status: 0 all good, 1 something to look at, 2 something bad.")]
    Doctor(Box<DoctorArgs>),
    /// Ask a running gateway whether it is alive (exit status 0) or not (1)
    Health {
        #[command(flatten)]
        config: Box<ConfigArgs>,
        /// Whether it can be asked something, not only whether it lives
        #[arg(long)]
        ready: bool,
    },
    /// Show how a running gateway is (exit status 2: critical or not ready; 1: no answer)
    Status(stent::status::StatusArgs),
    /// Show it live, until q is pressed
    Top(stent::status::TopArgs),
    /// List, download and check models
    Models(stent::models::ModelsArgs),
    /// Look after policies, and write, check and measure them
    Policy(Box<stent::policy_cli::PolicyArgs>),
    /// Make API keys and the admin token
    #[command(subcommand)]
    Key(KeyCommand),
    /// Save the sessions to a file, and bring them back
    Sessions(sessions_cli::SessionsArgs),
    /// Measure a chat server, or two side by side
    Bench(Box<stent::bench::Args>),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the manual page (roff), or write one for every command into a folder
    Man {
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Print a new key, and what the configuration needs to know it
    New {
        /// Whose key it is
        #[arg(required_unless_present = "admin")]
        tenant: Option<String>,
        /// The admin routes' token instead
        #[arg(long, conflicts_with = "tenant")]
        admin: bool,
    },
}

impl KeyCommand {
    fn run(self) -> anyhow::Result<()> {
        let Self::New { tenant, .. } = self;
        let key = access::mint().context("no randomness for a key")?;
        let digest = access::Digest::of(&key);
        let lines = match tenant {
            Some(tenant) => {
                let entry = access::Key {
                    tenant: tenant.clone(),
                    sha256: digest.to_string(),
                };
                access::check(&[entry], &BTreeMap::new(), "").map_err(anyhow::Error::msg)?;
                format!("[[server.keys]]\ntenant = {tenant:?}\nsha256 = \"{digest}\"")
            }
            None => format!("[server]\nadmin_token = \"{digest}\""),
        };
        println!(
            "{key}\n\nNothing can show it again. The configuration knows its digest:\n\n{lines}"
        );
        Ok(())
    }
}

#[derive(Args)]
struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// One JSON object for programs
    #[arg(long)]
    json: bool,
    /// Leave out what reads the whole model: its hash
    #[arg(long)]
    quick: bool,
    /// The admin token of a running gateway that asks for one
    #[arg(
        long,
        env = "STENT_ADMIN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    token: Option<String>,
}

/// Where the configuration comes from.
#[derive(Args)]
struct ConfigArgs {
    /// Configuration file (TOML)
    #[arg(long, env = "STENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the public routes [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address of the admin routes [default: 127.0.0.1:8001]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Model file [default: models/demo/stent-demo.gguf]
    #[arg(long, value_name = "GGUF")]
    model: Option<String>,
    /// Folder that is watched for policies [default: policies]
    #[arg(long, value_name = "DIR")]
    policies: Option<String>,
    /// Folder for what outlives a restart [default: data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Any key of the configuration, such as engine.slots=2; may be repeated
    #[arg(long, value_name = "key.path=value")]
    set: Vec<String>,
}

#[derive(Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Check the configuration and exit
    #[arg(long)]
    check_config: bool,
    /// Print the effective configuration and exit
    #[arg(long)]
    print_config: bool,
}

impl ConfigArgs {
    /// The configuration, and what about it or the environment looks like a slip.
    fn load(&self) -> anyhow::Result<(Config, Vec<String>)> {
        let mut overrides = Overrides::from_env(std::env::vars());
        let flags = [
            ("--listen", "server", "listen", &self.listen),
            ("--admin", "server", "admin", &self.admin),
            ("--model", "engine", "model", &self.model),
            ("--policies", "policies", "dir", &self.policies),
            ("--data", "data", "dir", &self.data),
        ];
        for (flag, section, key, value) in flags {
            if let Some(value) = value {
                overrides.flag(flag, section, key, value);
            }
        }
        for assignment in &self.set {
            overrides.set(assignment)?;
        }
        let config = Config::load(self.config.as_deref(), &overrides)?;
        let warnings = [overrides.warnings().to_vec(), config.warnings()].concat();
        Ok((config, warnings))
    }
}

/// `0.1.0 (commit …, wasmtime …, llama-cpp-2 …, llama.cpp …)`
fn version() -> &'static str {
    let llama = stent::engine::llama_version();
    format!("{}, llama.cpp {llama})", env!("STENT_VERSION")).leak()
}

fn main() -> ExitCode {
    // The two children that Stent starts of itself are no commands for people.
    let mut args = std::env::args_os().skip(1);
    match (args.next(), args.next()) {
        (Some(command), Some(file)) if command == stent::engine::cpu::PROBE_COMMAND => {
            return stent::engine::cpu::probe_child_main(Path::new(&file));
        }
        (Some(command), _) if command == "__compile" => return stent::policy::compile_child_main(),
        _ => {}
    }
    stent::tls::install();
    match run(Cli::parse().command) {
        Ok(status) => ExitCode::from(status),
        // All is said: the exit status is for scripts.
        Err(error) if error.is::<Critical>() => ExitCode::from(2),
        Err(error) => {
            eprintln!("stent: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// A gateway answered and is not well.
#[derive(Debug, thiserror::Error)]
#[error("the gateway is not ready, or a value is critical")]
struct Critical;

/// The error and its causes in one line. Most errors are sentences that hold their cause already:
/// it is not told twice.
fn told(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// Runs a command; its exit status is 0 unless the command has others.
fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Status(args) => {
            if !stent::status::status(&args, &mut std::io::stdout())? {
                return Err(Critical.into());
            }
        }
        Command::Top(args) => stent::status::top(&args)?,
        Command::Models(args) => stent::models::run(&args, &mut std::io::stdout())?,
        Command::Key(command) => command.run()?,
        Command::Policy(args) => stent::policy_cli::run(&args, &mut std::io::stdout())?,
        Command::Sessions(args) => sessions_cli::run(args)?,
        Command::Bench(args) => stent::bench::run(*args)?,
        Command::Doctor(args) => return doctor(&args),
        Command::Health { config, ready } => {
            let (config, _) = config.load()?;
            let said = stent::doctor::health(&config, ready).map_err(anyhow::Error::msg)?;
            println!("{said}");
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "stent", &mut std::io::stdout());
        }
        Command::Man { dir: Some(dir) } => {
            std::fs::create_dir_all(&dir)?;
            clap_mangen::generate_to(Cli::command(), &dir)?;
        }
        Command::Man { dir: None } => {
            clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?;
        }
        Command::Serve(args) => {
            let seen = serve::reload::stamp(args.config.config.as_deref());
            let (config, warnings) = args.config.load()?;
            if args.print_config || args.check_config {
                for warning in &warnings {
                    eprintln!("stent: warning: {warning}");
                }
            }
            if args.print_config {
                print!("{}", config.to_toml()?);
            } else if args.check_config {
                check(&config)?;
            } else {
                let source = serve::reload::Source {
                    file: args.config.config.clone(),
                    seen,
                    load: Box::new(move || args.config.load()),
                };
                return serve::serve(config, &warnings, source);
            }
        }
    }
    Ok(0)
}

fn doctor(args: &DoctorArgs) -> anyhow::Result<u8> {
    let mut out = std::io::stdout();
    let how = stent::doctor::How {
        quick: args.quick,
        json: args.json,
        colour: out.is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        token: args.token.clone(),
    };
    let config = args.config.load().map_err(|error| told(&error));
    Ok(stent::doctor::run(config, &how, &mut out)?.exit())
}

/// All that a start would refuse, but for the ports. The model may come later.
fn check(config: &Config) -> anyhow::Result<()> {
    config.server.certificates()?;
    config.server.admin_certificates()?;
    let mut engine = config.engine.clone();
    match stent::engine::check(&engine) {
        Err(error) if error.is_missing_model() => {
            eprintln!("stent: warning: {error}");
            // Its tokenizer counts bytes, which is enough to try a policy with.
            engine.kind = stent::engine::Kind::Scripted;
        }
        other => other?,
    }
    let tokenizer = stent::engine::tokenizer(&engine)?;
    stent::policy::Workbench::open(config.policies.clone(), tokenizer)?.bundled()?;
    println!("the configuration is good");
    Ok(())
}
