//! The right to compute a run for everybody, and to say what comes of it.

use super::piece::Piece;
use super::scripts::call;
use super::{Failure, LEASE, MAX_BYTES, Name, REMAINS, Relay, millis};

/// Most tries to say something: after a lost answer it is said again, under the same numbers.
const TRIES: u32 = 3;

/// Dropping it gives it back; who reads then computes for themselves.
pub struct Lease {
    relay: Relay,
    name: Name,
    token: String,
    /// Number of the next piece, and the bytes of those before.
    next: u64,
    bytes: usize,
    held: bool,
}

/// What became of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is held, and so many hosts read.
    Read(u64),
    /// It ran out: others do not wait for this host any more.
    Lost,
}

impl Lease {
    pub(super) fn new(relay: Relay, name: Name, token: String) -> Self {
        Self {
            relay,
            name,
            token,
            next: 0,
            bytes: 0,
            held: true,
        }
    }

    /// Says these pieces, in order, behind those before. A last one gives the lease back.
    ///
    /// # Errors
    /// What went wrong; `long` where the run is too long to be shared, `lost` where the lease ran
    /// out. Nothing may be said any more.
    pub async fn say(&mut self, pieces: &[Piece]) -> Result<(), Failure> {
        let encode = |(at, piece): (u64, &Piece)| {
            let place = (&self.name, self.token.as_str(), at);
            piece.encode(place, &self.relay.0.keys)
        };
        let encoded = (self.next..).zip(pieces).map(encode);
        let encoded = encoded.collect::<Result<Vec<_>, _>>()?;
        self.bytes += encoded.iter().map(|piece| piece.len() + 64).sum::<usize>();
        if self.bytes > MAX_BYTES {
            return Err("long");
        }
        let relay = self.relay.clone();
        let (lease, said) = (self.name.lease(), self.name.said(&self.token));
        let mut say = call(&relay.0.scripts.say, &[&lease, &said]);
        say.arg(&self.token).arg(millis(REMAINS)).arg(self.next);
        for piece in &encoded {
            say.arg(piece.as_slice());
        }
        let mut tries = 1;
        let said = loop {
            match relay.run::<i64>(&say).await {
                Err("slow" | "lost") if tries < TRIES => tries += 1,
                done => break done?,
            }
        };
        if said == 0 {
            self.held = false;
            return Err("lost");
        }
        self.next += encoded.len() as u64;
        if pieces.last().is_some_and(Piece::is_last) {
            self.release().await;
        }
        Ok(())
    }

    /// Holds it for another while.
    ///
    /// # Errors
    /// What kept the server from doing so; it may be tried again.
    pub async fn renew(&mut self) -> Result<Standing, Failure> {
        let keys = [self.name.lease(), self.name.readers(&self.token)];
        let mut renew = call(&self.relay.0.scripts.renew, &[&keys[0], &keys[1]]);
        renew.arg(&self.token).arg(millis(LEASE));
        let readers = self.relay.run::<i64>(&renew).await?;
        Ok(match u64::try_from(readers) {
            Ok(readers) => Standing::Read(readers),
            Err(_) => {
                self.held = false;
                Standing::Lost
            }
        })
    }

    /// Gives it back unless another host reads: then nobody can come any more. `false`: one does.
    ///
    /// # Errors
    /// What kept the server from saying so.
    pub async fn leave_alone(&mut self) -> Result<bool, Failure> {
        let keys = [
            self.name.lease(),
            self.name.readers(&self.token),
            self.name.said(&self.token),
        ];
        let keys = keys.each_ref().map(String::as_str);
        let mut leave = call(&self.relay.0.scripts.leave_alone, &keys);
        leave.arg(&self.token);
        let alone = self.relay.run::<i64>(&leave).await? == 1;
        self.held = !alone;
        Ok(alone)
    }

    async fn release(&mut self) {
        if std::mem::replace(&mut self.held, false) {
            give_back(&self.relay, &self.name, &self.token).await;
        }
    }
}

async fn give_back(relay: &Relay, name: &Name, token: &str) {
    let lease = name.lease();
    let mut release = call(&relay.0.scripts.release, &[&lease]);
    release.arg(token);
    // Otherwise it runs out by itself.
    let _ = relay.run::<i64>(&release).await;
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        let (relay, name) = (self.relay.clone(), self.name.clone());
        let token = std::mem::take(&mut self.token);
        // Without a runtime the process ends, and the lease runs out by itself. What is spawned ends
        // within one timeout, and holds no lease: a runtime that shuts down drops it at once.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { give_back(&relay, &name, &token).await });
        }
    }
}
