//! `[server]`: addresses, who may ask, and how long anything may take.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connection::Times;
use super::{HttpError, cors};
use crate::access;
use crate::tls::{Certificates, Named};
use crate::types::units;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address of the public routes.
    #[serde(with = "units::address")]
    pub listen: SocketAddr,
    /// Address of the admin routes: metrics, policies, slots. Never reachable from outside.
    #[serde(with = "units::address")]
    pub admin: SocketAddr,
    /// sha256 of the token that the admin routes ask for, in hex; empty: none, and then the admin
    /// address is a loopback one.
    pub admin_token: String,
    /// API keys; none: whoever reaches the public address may ask.
    pub keys: Vec<access::Key>,
    /// What each tenant may ask.
    pub limits: access::Limits,
    /// Tenants with other limits.
    pub tenants: BTreeMap<String, access::Limits>,
    /// PEM file with the certificate chain of the public address; empty: no TLS.
    pub tls_cert: PathBuf,
    /// PEM file with its private key.
    pub tls_key: PathBuf,
    /// PEM file with the certificate chain of the admin address; empty: no TLS there.
    pub admin_tls_cert: PathBuf,
    /// PEM file with its private key.
    pub admin_tls_key: PathBuf,
    /// Open connections of each address; one more is answered 503.
    pub max_connections: u32,
    /// Connections that the kernel keeps waiting for us.
    pub backlog: u32,
    /// An idle connection is closed after so long.
    #[serde(with = "units::duration")]
    pub keep_alive: Duration,
    /// From the first byte of a request to the end of its head.
    #[serde(with = "units::duration")]
    pub head_timeout: Duration,
    /// From the end of the head to the end of the body.
    #[serde(with = "units::duration")]
    pub body_timeout: Duration,
    /// A stream that is silent for so long sends a comment: no proxy takes it for dead.
    #[serde(with = "units::duration")]
    pub heartbeat: Duration,
    /// A client that takes nothing of its answer for so long is cut off.
    #[serde(with = "units::duration")]
    pub reader_timeout: Duration,
    /// An answer that is kept is written on for so long while nobody reads it.
    #[serde(with = "units::duration")]
    pub resume: Duration,
    /// A kept answer can be read for so long after its end.
    #[serde(with = "units::duration")]
    pub replay: Duration,
    /// Bytes of all kept answers together; the oldest go first.
    #[serde(with = "units::bytes")]
    pub replay_bytes: u64,
    /// Largest request head: method, path and headers.
    #[serde(with = "units::bytes")]
    pub max_head: u64,
    /// Largest request body.
    #[serde(with = "units::bytes")]
    pub max_body: u64,
    /// Serve the chat page at `/`.
    pub page: bool,
    /// Origins whose pages may call us from a browser: `["http://localhost:3000"]`.
    pub cors_origins: Vec<String>,
    /// After SIGTERM, running answers may go on for so long.
    #[serde(with = "units::duration")]
    pub drain: Duration,
    /// More resident memory than this: what can be spared goes, then the process makes room for a
    /// fresh one. 0: no limit.
    #[serde(with = "units::bytes")]
    pub max_rss: u64,
}

/// hyper's own lower bound.
const MIN_HEAD: u64 = 8 << 10;

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            admin: SocketAddr::from(([127, 0, 0, 1], 8001)),
            admin_token: String::new(),
            keys: Vec::new(),
            limits: access::Limits::default(),
            tenants: BTreeMap::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            admin_tls_cert: PathBuf::new(),
            admin_tls_key: PathBuf::new(),
            max_connections: 4096,
            backlog: 2048,
            keep_alive: Duration::from_secs(60),
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(10),
            reader_timeout: Duration::from_secs(30),
            resume: Duration::from_secs(30),
            replay: Duration::from_secs(600),
            replay_bytes: 64 << 20,
            max_head: 32 << 10,
            max_body: 1 << 20,
            page: true,
            cors_origins: Vec::new(),
            drain: Duration::from_secs(30),
            max_rss: 20 << 30,
        }
    }
}

impl Settings {
    pub(super) fn times(&self) -> Times {
        Times {
            keep_alive: self.keep_alive,
            head: self.head_timeout,
            max_head: usize::try_from(self.max_head).unwrap_or(usize::MAX),
        }
    }

    /// The certificate of the public address, where there is one.
    ///
    /// # Errors
    /// [`HttpError::Tls`] for files that cannot be used.
    pub fn certificates(&self) -> Result<Option<Arc<Certificates>>, HttpError> {
        loaded(Named::PUBLIC, &self.tls_cert, &self.tls_key)
    }

    /// The certificate of the admin address, where there is one.
    ///
    /// # Errors
    /// As [`Settings::certificates`].
    pub fn admin_certificates(&self) -> Result<Option<Arc<Certificates>>, HttpError> {
        loaded(Named::ADMIN, &self.admin_tls_cert, &self.admin_tls_key)
    }

    /// What works and is probably not meant: one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let open = !self.listen.ip().is_loopback() && self.keys.is_empty();
        let warning = || {
            format!(
                "server.listen: {} can be reached from other machines, and without server.keys \
                 whoever reaches it may ask; `stent key new TENANT` makes a key",
                self.listen
            )
        };
        open.then(warning).into_iter().collect()
    }

    /// One sentence for the first value that cannot work.
    ///
    /// # Errors
    /// [`HttpError::Value`] or [`HttpError::Origin`].
    pub fn check(&self) -> Result<(), HttpError> {
        let wrong = |text: &str| Err(HttpError::Value(text.to_owned()));
        if self.listen == self.admin && self.listen.port() != 0 {
            return Err(HttpError::Value(format!(
                "server.admin: {}, the same as server.listen; expected another address, because \
                 the admin routes are never public",
                self.admin
            )));
        }
        access::check(&self.keys, &self.tenants, &self.admin_token).map_err(HttpError::Value)?;
        if !self.admin.ip().is_loopback() && self.admin_token.is_empty() {
            return Err(HttpError::Value(format!(
                "server.admin: {} can be reached from other machines, and the admin routes ask for \
                 no token; expected 127.0.0.1 or [::1], or a server.admin_token (`stent key new \
                 --admin` makes one)",
                self.admin
            )));
        }
        paired(Named::PUBLIC, &self.tls_cert, &self.tls_key)?;
        paired(Named::ADMIN, &self.admin_tls_cert, &self.admin_tls_key)?;
        if self.max_head < MIN_HEAD {
            return Err(HttpError::Value(format!(
                "server.max_head: {} bytes, expected at least {MIN_HEAD}",
                self.max_head
            )));
        }
        if self.max_connections == 0 {
            return wrong("server.max_connections: 0, expected at least 1");
        }
        if self.backlog == 0 {
            return wrong("server.backlog: 0, expected at least 1");
        }
        if self.max_body == 0 {
            return wrong("server.max_body: 0, expected a size such as \"1MiB\"");
        }
        for (key, time, example) in [
            ("keep_alive", self.keep_alive, "60s"),
            ("head_timeout", self.head_timeout, "10s"),
            ("body_timeout", self.body_timeout, "30s"),
            ("heartbeat", self.heartbeat, "10s"),
            ("reader_timeout", self.reader_timeout, "30s"),
            ("resume", self.resume, "30s"),
            ("replay", self.replay, "10m"),
        ] {
            if time.is_zero() {
                return Err(HttpError::Value(format!(
                    "server.{key}: 0s, expected a duration such as \"{example}\""
                )));
            }
        }
        cors::origins(&self.cors_origins).map(drop)
    }
}

fn loaded(named: Named, cert: &Path, key: &Path) -> Result<Option<Arc<Certificates>>, HttpError> {
    if cert.as_os_str().is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(Certificates::load(named, cert, key)?)))
}

/// Neither of the two files is of use without the other.
fn paired(named: Named, cert: &Path, key: &Path) -> Result<(), HttpError> {
    let (missing, other, what) = match (cert.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (false, true) => (named.key, named.cert, "private key"),
        (true, false) => (named.cert, named.key, "certificate"),
        (true, true) | (false, false) => return Ok(()),
    };
    Err(HttpError::Value(format!(
        "{missing}: not set, expected the {what} of {other}"
    )))
}
