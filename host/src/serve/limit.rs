//! `server.max_rss`: what can be spared goes first, then newcomers are refused and the process makes
//! room for a fresh one. The service manager's own limit, which kills, is the last resort.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stent::chat::Gateway;
use stent::engine::memory;

/// How often the memory is looked at; the kernel needs some time to take back what was freed.
const EVERY: Duration = Duration::from_secs(1);
/// So often in a row room is made before it is given up.
const TRIES: u32 = 3;

/// What is to be done about the memory in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Shed,
    Leave,
}

#[derive(Debug, Default)]
struct Judge {
    over: u32,
}

impl Judge {
    /// `max` 0: there is no limit.
    fn judge(&mut self, resident: u64, max: u64) -> Verdict {
        if max == 0 || resident <= max {
            self.over = 0;
            return Verdict::Fine;
        }
        self.over += 1;
        match self.over <= TRIES {
            true => Verdict::Shed,
            false => Verdict::Leave,
        }
    }
}

/// Returns when the process must go. `max` may change while it runs.
pub async fn exceeded(gateway: Arc<Gateway>, max: Arc<AtomicU64>) {
    let mut judge = Judge::default();
    loop {
        tokio::time::sleep(EVERY).await;
        let (resident, max) = (memory::resident(), max.load(Ordering::Relaxed));
        match judge.judge(resident, max) {
            Verdict::Fine => {}
            Verdict::Shed => {
                tracing::warn!(
                    resident_mib = resident >> 20,
                    max_mib = max >> 20,
                    "more memory than server.max_rss: parked KV and cached answers are given up"
                );
                gateway.engine.shed();
                gateway.cache.clear();
                let _ = tokio::task::spawn_blocking(memory::give_back).await;
            }
            Verdict::Leave => {
                tracing::error!(
                    resident_mib = resident >> 20,
                    max_mib = max >> 20,
                    "still more memory than server.max_rss: nobody is let in any more, running \
                     answers are finished, then a fresh start is asked for"
                );
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_before_it_is_given_up() {
        use Verdict::{Fine, Leave, Shed};
        let mut judge = Judge::default();
        let verdicts: Vec<_> = [9, 11, 11, 10, 11, 11, 11, 11]
            .into_iter()
            .map(|resident| judge.judge(resident, 10))
            .collect();
        assert_eq!(verdicts, [Fine, Shed, Shed, Fine, Shed, Shed, Shed, Leave]);
        assert_eq!(judge.judge(u64::MAX, 0), Fine, "0 is no limit");
    }
}
