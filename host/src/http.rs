//! The listeners: backlog, keep-alive, body limit, CORS, and an orderly end.

mod connection;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::cors::CorsLayer;

use crate::access;
use crate::tls::Certificates;
use crate::types::units;
use connection::Times;

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
    fn times(&self) -> Times {
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
        if self.tls_cert.as_os_str().is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Certificates::load(
            &self.tls_cert,
            &self.tls_key,
        )?)))
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
        match (
            self.tls_cert.as_os_str().is_empty(),
            self.tls_key.as_os_str().is_empty(),
        ) {
            (false, true) => {
                return wrong(
                    "server.tls_key: not set, expected the private key of server.tls_cert",
                );
            }
            (true, false) => {
                return wrong(
                    "server.tls_cert: not set, expected the certificate of server.tls_key",
                );
            }
            (true, true) | (false, false) => {}
        }
        if self.max_head < MIN_HEAD {
            return Err(HttpError::Value(format!(
                "server.max_head: {} bytes, expected at least {MIN_HEAD}",
                self.max_head
            )));
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
        origins(&self.cors_origins).map(drop)
    }
}

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

/// Opens a listener with the configured backlog; mio's own default would be 128.
///
/// # Errors
/// [`HttpError::Listen`] that names the key and the address.
pub fn listen(
    key: &'static str,
    address: SocketAddr,
    backlog: u32,
) -> Result<TcpListener, HttpError> {
    let open = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // A restart need not wait for the old connections' TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(backlog)
    };
    open().map_err(|source| HttpError::Listen {
        key,
        address,
        source,
    })
}

/// Takes over a listening socket that was passed to this process.
///
/// # Errors
/// [`HttpError::Listen`] that names the key.
pub fn adopt(
    key: &'static str,
    address: SocketAddr,
    listener: std::net::TcpListener,
) -> Result<TcpListener, HttpError> {
    let adopted = listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener));
    adopted.map_err(|source| HttpError::Listen {
        key,
        address,
        source,
    })
}

/// Lets pages of the configured origins call the public routes.
///
/// # Errors
/// [`HttpError::Origin`] for a text that is no origin.
pub fn cors(router: Router, origins: &[String]) -> Result<Router, HttpError> {
    if origins.is_empty() {
        return Ok(router);
    }
    let origins = self::origins(origins)?;
    let allowed = [
        "content-type",
        "authorization",
        "accept",
        "traceparent",
        "x-request-id",
        "last-event-id",
        "idempotency-key",
    ];
    let exposed = [
        "x-vercel-ai-ui-message-stream",
        "traceresponse",
        "x-request-id",
        "retry-after",
    ];
    Ok(router.layer(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers(allowed.map(HeaderName::from_static))
            .expose_headers(exposed.map(HeaderName::from_static)),
    ))
}

/// Scheme, host and port; a browser sends no path, so that one with a path would never match.
fn origins(texts: &[String]) -> Result<Vec<HeaderValue>, HttpError> {
    let origin = |text: &String| {
        let host = ["http://", "https://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        let whole = host.is_some_and(|h| !h.is_empty() && !h.contains(['/', '?', '#', '*', ' ']));
        let value = HeaderValue::from_str(text).ok().filter(|_| whole);
        value.ok_or_else(|| HttpError::Origin(text.clone()))
    };
    texts.iter().map(origin).collect()
}

/// A listener that is being served.
pub struct Door {
    /// Ends the accepting; `stop` ends the connections too.
    leave: CancellationToken,
    stop: CancellationToken,
    served: TaskTracker,
}

impl Door {
    pub fn open(
        listener: TcpListener,
        router: Router,
        settings: &Settings,
        certificates: Option<Arc<Certificates>>,
    ) -> Self {
        let (leave, served) = (CancellationToken::new(), TaskTracker::new());
        let stop = CancellationToken::new();
        if let Some(certificates) = certificates.clone() {
            let watched = async move { certificates.watch().await };
            served.spawn(leave.clone().run_until_cancelled_owned(watched));
        }
        let door = (router, settings.times(), certificates);
        served.spawn(serve(listener, door, (leave.clone(), stop.clone())));
        served.close();
        Self {
            leave,
            stop,
            served,
        }
    }

    /// Lets nobody in any more; who is inside may go on asking.
    pub fn leave(&self) {
        self.leave.cancel();
    }

    /// Waits until everybody has gone.
    pub async fn empty(&self) {
        self.served.wait().await;
    }

    /// Lets nobody in any more, and waits until the requests inside are answered.
    pub async fn close(&self) {
        self.leave.cancel();
        self.stop.cancel();
        self.served.wait().await;
    }
}

/// Serves until `stop`, then lets the open connections finish their requests.
async fn serve(
    listener: TcpListener,
    (router, times, certificates): (Router, Times, Option<Arc<Certificates>>),
    (leave, stop): (CancellationToken, CancellationToken),
) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = leave.cancelled() => break,
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // Small frames must leave at once: they are words that somebody waits for.
                let _ = stream.set_nodelay(true);
                let (router, stop) = (router.clone(), stop.clone());
                match certificates.as_ref().map(|held| held.acceptor()) {
                    None => drop(connections.spawn(connection::serve(stream, router, times, stop))),
                    Some(acceptor) => drop(connections.spawn(async move {
                        // A handshake is a head too.
                        let shaken = tokio::time::timeout(times.head, acceptor.accept(stream));
                        match shaken.await {
                            Ok(Ok(stream)) => connection::serve(stream, router, times, stop).await,
                            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                            Err(_) => tracing::debug!("a TLS handshake took too long"),
                        }
                    })),
                }
            }
            Err(error) => {
                // Out of file descriptors, most often: trying again at once would spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}
