//! Looks after a server: an idle gateway learns of trouble too, and a server that is back is used
//! again without anybody's request being the one that tries.

use std::sync::{Arc, Weak};
use std::time::Duration;

use ::redis::aio::ConnectionManager;

use super::{Shared, Trouble, cmd, manager};

/// Between two looks at a server that is well, and at one that is down.
const WELL: Duration = Duration::from_secs(1);
const DOWN: Duration = Duration::from_millis(200);

/// The task ends with the last user of the server.
pub(super) fn start(shared: &Arc<Shared>) {
    tokio::spawn(watch(Arc::downgrade(shared)));
}

async fn watch(weak: Weak<Shared>) {
    loop {
        let Some(shared) = weak.upgrade() else { return };
        let mut connection = ConnectionManager::clone(&shared.manager.load());
        let ping = cmd("PING");
        let answer = ping.query_async::<()>(&mut connection);
        match tokio::time::timeout(shared.timeout, answer).await {
            Ok(Ok(())) => shared.recovered(),
            Ok(Err(error)) => match Trouble::from(error) {
                // It is there, and says no: it is loading its data, or the password is wrong.
                trouble @ Trouble::Refused(_) => shared.silent(trouble),
                trouble => shared.note(Some(trouble)),
            },
            Err(_) => {
                shared.note(Some(Trouble::Slow));
                shared.renew();
            }
        }
        let healthy = shared.state().health.healthy;
        let troubled = shared.state().in_a_row > 0;
        drop(shared);
        tokio::time::sleep(if healthy && !troubled { WELL } else { DOWN }).await;
    }
}

impl Shared {
    /// A server that refuses even a ping is of no use to anybody.
    fn silent(&self, trouble: Trouble) {
        self.note(Some(trouble));
        let mut state = self.state();
        if state.health.healthy {
            state.turn(false);
            tracing::warn!(redis = %self.address, %trouble, "Redis is down");
        }
    }

    /// A connection of which nothing comes back may never break by itself.
    fn renew(&self) {
        if self.state().health.healthy {
            return;
        }
        if let Ok(fresh) = manager(&self.client, self.timeout) {
            self.manager.store(Arc::new(fresh));
        }
    }
}
