//! What signals ask for: an end, another configuration, another process in this one's place, a log that
//! is opened again.

use std::process::Child;
use std::time::Duration;

use stent::trace::Logging;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::End;
use super::reload::Reloader;
use super::sockets::Spare;

/// Signals that would end the process as long as nobody waits for them: one that comes while the model
/// loads is served afterwards.
pub struct Signals {
    /// A change of the configuration.
    hangup: Signal,
    /// A change of the program.
    upgrade: Signal,
    /// The next process is ready.
    quit: Signal,
}

impl Signals {
    pub fn await_them() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
            quit: signal(SignalKind::quit())?,
        })
    }
}

/// Serves signals and changes of the configuration until it is time to end, and says why.
pub async fn told(
    signals: &mut Signals,
    spare: &Spare,
    reloader: &mut Reloader,
) -> anyhow::Result<End> {
    // SIGTERM from a service manager, SIGINT from a terminal.
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let mut next: Option<Child> = None;
    let mut look = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(End::Stopped),
            _ = int.recv() => return Ok(End::Stopped),
            _ = signals.quit.recv() => return Ok(End::Upgraded),
            _ = signals.hangup.recv() => reloader.reload("SIGHUP").await,
            () = reloader.changed() => reloader.reload("the file changed").await,
            _ = signals.upgrade.recv() => match &next {
                Some(child) => tracing::warn!(pid = child.id(), "an upgrade is under way"),
                None => next = started(spare),
            },
            _ = look.tick(), if next.is_some() => {
                let ended = next.as_mut().and_then(|child| child.try_wait().ok().flatten());
                if let Some(status) = ended {
                    tracing::error!(%status, "the next process ended early; this one goes on");
                    next = None;
                }
            }
        }
    }
}

fn started(spare: &Spare) -> Option<Child> {
    match spare.start_next() {
        Ok(child) => {
            tracing::info!(pid = child.id(), "the next process starts");
            Some(child)
        }
        Err(error) => {
            tracing::error!(
                error = format!("{error:#}"),
                "the next process cannot be started; this one goes on"
            );
            None
        }
    }
}

/// SIGUSR1 from whoever rotates the log. It is taken even where there is no file: by default it would
/// end the process.
pub fn reopen_at_usr1(logging: &Logging) -> std::io::Result<()> {
    let mut usr1 = signal(SignalKind::user_defined1())?;
    let logging = logging.clone();
    // Lives as long as the runtime.
    tokio::spawn(async move {
        while usr1.recv().await.is_some() {
            match logging.reopen() {
                Ok(()) => tracing::info!("SIGUSR1: the log is open again"),
                Err(error) => tracing::error!(%error, "SIGUSR1: lines go on into the old file"),
            }
        }
    });
    Ok(())
}
