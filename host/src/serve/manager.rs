//! The service manager: it is told when the gateway is ready, that it is alive, and that it ends
//! (sd_notify). Without a manager all of this does nothing.

use std::sync::Arc;

use sd_notify::NotifyState;
use stent::engine::Engine;

/// The doors are open. `replaces`: this process is the main one from now on.
pub fn ready(model: &str, replaces: Option<u32>) {
    let status = format!("serves {model}");
    let mut said = vec![NotifyState::Ready, NotifyState::Status(&status)];
    if replaces.is_some() {
        said.push(NotifyState::MainPid(std::process::id()));
    }
    tell(&said);
}

pub fn stopping() {
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("finishes running answers"),
    ]);
}

/// Says again and again that the gateway is alive, for as long as it is: a runtime that hangs says
/// nothing, and of an engine that is stuck nothing good is said.
pub async fn watchdog(engine: Arc<dyn Engine>) {
    let Some(within) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        if engine.alive() {
            tell(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(within / 3).await;
    }
}

fn tell(said: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(said) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
