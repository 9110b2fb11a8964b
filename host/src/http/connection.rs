//! One connection and its two clocks: how long it may be idle, and how long a request's head may
//! take. hyper has one clock for both, which starts when a connection begins to wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::watched::Watched;

/// How long a connection may wait, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For the first byte of a request.
    pub keep_alive: Duration,
    /// For the rest of its head.
    pub head: Duration,
    /// Largest head, in bytes; hyper answers 431 to a larger one.
    pub max_head: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Phase {
    /// Nothing was asked since then.
    Idle(Instant),
    /// A head has begun.
    Head(Instant),
    Answering,
}

/// Serves the connection until its client leaves, a clock runs out, or `stop` and the request that
/// runs then is answered.
pub async fn serve<S>(stream: S, router: Router, times: Times, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (phase, watched) = watch::channel(Phase::Idle(Instant::now()));
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None);
    builder.max_buf_size(times.max_head);
    let routes = TowerToHyperService::new(router);
    let used = AtomicBool::new(false);
    let service = service_fn(|request| {
        used.store(true, Ordering::Relaxed);
        phase.send_replace(Phase::Answering);
        let answered = Answered(phase.clone());
        let response = routes.call(request);
        async move { response.await.map(|response| guarded(response, answered)) }
    });
    let io = Watched::new(stream, phase.clone(), times.max_head);
    let served = builder.serve_connection(TokioIo::new(io), service);
    let result = tokio::select! {
        biased;
        result = until_stopped(served, &used, &stop) => result,
        late = expired(watched, times) => {
            tracing::debug!("a connection was closed: {late}");
            Ok(())
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn until_stopped<I, S>(
    served: http1::Connection<TokioIo<Watched<I>>, S>,
    used: &AtomicBool,
    stop: &CancellationToken,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    tokio::pin!(served);
    tokio::select! {
        result = served.as_mut() => result,
        () = stop.cancelled() => {
            // Browsers connect ahead: nobody waits where nothing was asked yet.
            if !used.load(Ordering::Relaxed) {
                return Ok(());
            }
            served.as_mut().graceful_shutdown();
            served.await
        }
    }
}

/// Resolves when a clock has run out, with the key that set it.
async fn expired(mut phase: watch::Receiver<Phase>, times: Times) -> &'static str {
    loop {
        let now = *phase.borrow_and_update();
        let (end, key) = match now {
            Phase::Idle(since) => (since + times.keep_alive, "server.keep_alive"),
            Phase::Head(since) => (since + times.head, "server.head_timeout"),
            Phase::Answering => {
                if phase.changed().await.is_err() {
                    // The connection is ending by itself.
                    std::future::pending::<()>().await;
                }
                continue;
            }
        };
        tokio::select! {
            () = sleep_until(end) => return key,
            changed = phase.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// The connection is idle again when the last of the response was taken.
struct Answered(watch::Sender<Phase>);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.send_replace(Phase::Idle(Instant::now()));
    }
}

/// The response, which holds the guard until its body is dropped.
fn guarded(response: Response, answered: Answered) -> Response {
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &answered;
            frame
        }))
    })
}
