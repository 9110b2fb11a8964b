//! Reads what another host says.

use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::piece::Piece;
use super::scripts::call;
use super::{Failure, MAX_BYTES, Name, PRESENCE, Relay, millis};
use crate::redis::{FromRedisValue, MultiplexedConnection, RedisError, cmd};

/// How long the server holds a question to which there is no news; a reader that hears nothing for
/// so long looks whether anybody still computes.
const BLOCK: Duration = Duration::from_millis(200);
/// How often a reader shows that it is there.
const SHOW: Duration = Duration::from_secs(1);
/// Most pieces of one answer.
const COUNT: usize = 256;

pub struct Reader {
    relay: Relay,
    name: Name,
    /// Of whoever computes, and this reader's own.
    token: String,
    own: String,
    connection: Option<MultiplexedConnection>,
    /// The last entry that was read, and the number of the next piece.
    last: String,
    next: u64,
    bytes: usize,
    shown: Instant,
    _place: OwnedSemaphorePermit,
}

/// What there was to read.
#[derive(Debug, PartialEq)]
pub enum Read {
    /// In order, without a gap; none where nothing new was said.
    Pieces(Vec<Piece>),
    /// Whoever computed is gone.
    Lost,
}

/// Entries of streams: `[[name, [[id, [field, value, ...]], ...]], ...]`.
type Streams = Option<Vec<(String, Vec<(String, Vec<Vec<u8>>)>)>>;

impl Reader {
    pub(super) fn new(
        relay: Relay,
        name: Name,
        token: String,
        own: String,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            relay,
            name,
            token,
            own,
            connection: None,
            last: "0".into(),
            next: 0,
            bytes: 0,
            shown: Instant::now(),
            _place: place,
        }
    }

    /// Waits a little for news.
    ///
    /// # Errors
    /// What went wrong with the server, or with what was read: this reader has read all it can.
    pub async fn read(&mut self) -> Result<Read, Failure> {
        let mut pieces = self.news(Some(BLOCK)).await?;
        if pieces.is_empty() || self.shown.elapsed() >= SHOW {
            self.shown = Instant::now();
            let held = self.look(PRESENCE).await?;
            if pieces.is_empty() && !held {
                // The last words may have come in between.
                pieces = self.news(None).await?;
                if pieces.is_empty() {
                    return Ok(Read::Lost);
                }
            }
        }
        Ok(Read::Pieces(pieces))
    }

    /// Reads no more: the run may stop for want of readers.
    pub async fn leave(mut self) {
        // Otherwise it counts until its presence has run out.
        let _ = self.look(Duration::ZERO).await;
    }

    async fn news(&mut self, block: Option<Duration>) -> Result<Vec<Piece>, Failure> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(COUNT);
        if let Some(block) = block {
            read.arg("BLOCK").arg(millis(block));
        }
        read.arg("STREAMS").arg(self.name.said(&self.token));
        read.arg(&self.last);
        let mut connection = self.connection().await?;
        let patience = block.unwrap_or_default();
        let answer = read.query_async::<Streams>(&mut connection);
        let streams = self.within(patience, answer).await?;
        let entries = streams
            .into_iter()
            .flatten()
            .flat_map(|(_, entries)| entries);
        let mut pieces = Vec::new();
        for (id, fields) in entries {
            pieces.extend(self.piece(&fields)?);
            self.last = id;
        }
        Ok(pieces)
    }

    /// `None` for one that was said twice.
    fn piece(&mut self, fields: &[Vec<u8>]) -> Result<Option<Piece>, Failure> {
        let [_, at, _, bytes] = fields else {
            return Err("unreadable");
        };
        let at: Option<u64> = std::str::from_utf8(at).ok().and_then(|at| at.parse().ok());
        match at {
            Some(at) if at < self.next => return Ok(None),
            Some(at) if at == self.next => {}
            _ => return Err("gap"),
        }
        self.bytes += bytes.len();
        if self.bytes > MAX_BYTES {
            return Err("long");
        }
        let place = (&self.name, self.token.as_str(), self.next);
        let piece = Piece::decode(bytes, place, &self.relay.0.keys)?;
        self.next += 1;
        Ok(Some(piece))
    }

    /// Shows that this reader is there, or leaves; whether anybody still computes.
    async fn look(&mut self, presence: Duration) -> Result<bool, Failure> {
        let keys = [self.name.lease(), self.name.readers(&self.token)];
        let relay = self.relay.clone();
        let mut look = call(&relay.0.scripts.look, &[&keys[0], &keys[1]]);
        look.arg(&self.token).arg(&self.own).arg(millis(presence));
        Ok(relay.run::<i64>(&look).await? == 1)
    }

    async fn connection(&mut self) -> Result<MultiplexedConnection, Failure> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let made = self.relay.0.redis.own().await;
        let made = made.map_err(|trouble| trouble.kind())?;
        self.connection = Some(made.clone());
        Ok(made)
    }

    /// A silent server is in trouble; its state is taken down by others' uses.
    async fn within<T: FromRedisValue>(
        &self,
        patience: Duration,
        answer: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, Failure> {
        let most = patience + self.relay.0.redis.timeout();
        match tokio::time::timeout(most, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(crate::redis::Trouble::from(error).kind()),
            Err(_) => Err("slow"),
        }
    }
}
