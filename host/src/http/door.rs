//! A listener that is served: who comes in, who may finish, and when everybody has gone.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, Times};
use super::{Room, Settings};
use crate::error::Error;
use crate::tls::Certificates;

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
        (certificates, room): (Option<Arc<Certificates>>, Arc<Room>),
    ) -> Self {
        let (leave, served) = (CancellationToken::new(), TaskTracker::new());
        let stop = CancellationToken::new();
        if let Some(certificates) = certificates.clone() {
            let watched = async move { certificates.watch().await };
            served.spawn(leave.clone().run_until_cancelled_owned(watched));
        }
        let limit = room.most();
        let entrance = Entrance {
            router,
            full: Router::new().fallback(async move || Error::Crowded { limit }),
            times: settings.times(),
            certificates,
            room,
            porch: Room::new(PORCH),
        };
        served.spawn(serve(listener, entrance, (leave.clone(), stop.clone())));
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

/// Newcomers for whom there is no room and who are told so at a time; more are closed without a
/// word.
const PORCH: usize = 64;
/// How long each of them may take.
const BRIEF: Duration = Duration::from_secs(2);

/// What a newcomer meets.
struct Entrance {
    router: Router,
    /// What it tells when there is no room.
    full: Router,
    times: Times,
    certificates: Option<Arc<Certificates>>,
    room: Arc<Room>,
    porch: Arc<Room>,
}

impl Entrance {
    /// Serves the connection, or tells its client that there is no room.
    fn welcome(&self, stream: TcpStream, connections: &TaskTracker, stop: &CancellationToken) {
        // Small frames must leave at once: they are words that somebody waits for.
        let _ = stream.set_nodelay(true);
        let (router, times, seat) = match self.room.enter() {
            Some(seat) => (&self.router, self.times, seat),
            None => {
                self.tell_refused();
                let Some(seat) = self.porch.enter() else {
                    return;
                };
                let times = Times {
                    keep_alive: BRIEF,
                    head: BRIEF,
                    ..self.times
                };
                (&self.full, times, seat)
            }
        };
        let (router, stop) = (router.clone(), stop.clone());
        let acceptor = self.certificates.as_ref().map(|held| held.acceptor());
        connections.spawn(async move {
            let _seat = seat;
            let Some(acceptor) = acceptor else {
                return connection::serve(stream, router, times, stop).await;
            };
            // A handshake is a head too.
            match tokio::time::timeout(times.head, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => connection::serve(stream, router, times, stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        });
    }

    /// A crowd of thousands is told in a dozen lines.
    fn tell_refused(&self) {
        let refused = self.room.refused();
        if refused.is_power_of_two() {
            let limit = self.room.most();
            tracing::warn!(
                refused,
                limit,
                "connections are refused: server.max_connections"
            );
        }
    }
}

/// Serves until `stop`, then lets the open connections finish their requests.
async fn serve(
    listener: TcpListener,
    entrance: Entrance,
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
            Ok((stream, _)) => entrance.welcome(stream, &connections, &stop),
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
