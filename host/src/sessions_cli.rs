//! `stent sessions export` and `stent sessions import`: a backup of what people said.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use stent::session::{Sessions, Where};

use crate::ConfigArgs;

/// The sessions of the configured store, redb or Redis; a gateway may be running.
#[derive(Args)]
pub struct SessionsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write all sessions as JSON lines. They hold what people wrote, in plain text
    Export {
        /// The file, which only its owner can read; without it, standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        config: Box<ConfigArgs>,
    },
    /// Take in what export wrote
    Import {
        /// The file; `-` is standard input
        file: PathBuf,
        /// Also sessions that are there already
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        config: Box<ConfigArgs>,
    },
}

/// The store of this configuration.
fn open(args: &ConfigArgs, must_be_there: bool) -> anyhow::Result<Sessions> {
    let (config, _) = args.load()?;
    match &config.sessions.store {
        Where::Memory => bail!(
            "sessions.store: \"memory\" is the gateway's own memory, expected \"redb\" or an \
             address of Redis"
        ),
        Where::Redb => {
            let file = config.data.dir.join(stent::session::FILE);
            if must_be_there && !file.exists() {
                bail!("there are no sessions: {} does not exist", file.display());
            }
        }
        Where::Redis(_) => {}
    }
    // A long answer is no reason to give up a backup.
    let mut settings = config.sessions.clone();
    settings.timeout = settings.timeout.max(Duration::from_secs(5));
    Ok(Sessions::open(&settings, &config.data.dir)?)
}

pub fn run(args: SessionsArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot start")?;
    runtime.block_on(async {
        match args.command {
            Command::Export { out, config } => export(out.as_deref(), &config).await,
            Command::Import {
                file,
                replace,
                config,
            } => import(&file, replace, &config).await,
        }
    })
}

async fn export(out: Option<&Path>, config: &ConfigArgs) -> anyhow::Result<()> {
    let sessions = open(config, true)?;
    let mut writer: Box<dyn Write + Send> = match out {
        Some(path) => {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path);
            Box::new(BufWriter::new(file.with_context(|| {
                format!("--out: {} cannot be made", path.display())
            })?))
        }
        None => Box::new(BufWriter::new(io::stdout())),
    };
    let counts = sessions.export(&mut *writer).await?;
    eprintln!(
        "stent: {} sessions with {} exchanges were exported",
        counts.sessions, counts.exchanges
    );
    sessions.close().await;
    Ok(())
}

async fn import(file: &Path, replace: bool, config: &ConfigArgs) -> anyhow::Result<()> {
    let reader: Box<dyn io::Read> = match file.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(
            File::open(file).with_context(|| format!("{} cannot be read", file.display()))?,
        ),
    };
    let sessions = open(config, false)?;
    let counts = sessions.import(BufReader::new(reader), replace).await?;
    eprintln!(
        "stent: {} sessions with {} exchanges were imported, {} were there already{}",
        counts.sessions,
        counts.exchanges,
        counts.skipped,
        if counts.skipped > 0 {
            " (--replace takes them too)"
        } else {
            ""
        }
    );
    sessions.close().await;
    Ok(())
}
