//! The listeners: backlog, keep-alive, body limit, CORS, and an orderly end.

mod connection;
mod cors;
mod door;
mod listener;
mod room;
mod settings;
mod watched;

use std::net::SocketAddr;

pub use cors::Pages;
pub use door::Door;
pub use listener::{adopt, listen};
pub use room::Room;
pub use settings::Settings;

/// A listener that could not be had, or a setting that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{key} = {address}: cannot listen there: {source}{}", hint(source))]
    Listen {
        key: &'static str,
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(
        "server.cors_origins: {0:?} is no origin, expected one such as \"http://localhost:3000\""
    )]
    Origin(String),
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    #[error("{0}")]
    Value(String),
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            " (another program has this port; choose one with --listen or --admin)"
        }
        _ => "",
    }
}
