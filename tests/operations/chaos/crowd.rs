//! The people: each says words of their own, and remembers what was answered.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::server::Server;

/// No request may take longer, whatever happens.
const HANG: Duration = Duration::from_secs(60);
/// What trouble may be answered with. A 500 is nobody's plan.
const REFUSALS: [u16; 5] = [429, 502, 503, 504, 507];

/// How a whole answer is known.
#[derive(Clone, Copy)]
pub enum Says {
    /// The script to its last word.
    Script,
    /// The asker's own word.
    Echo,
}

/// What the people saw.
#[derive(Default)]
struct Seen {
    whole: AtomicU64,
    refused: AtomicU64,
    broken_off: AtomicU64,
    checked: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

struct Person {
    name: usize,
    session: String,
    base: String,
    client: reqwest::Client,
    says: Says,
    /// What they were told was finished.
    finished: Vec<String>,
    seen: Arc<Seen>,
}

impl Person {
    async fn live(mut self, stop: Arc<AtomicBool>) {
        for n in 1.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let began = Instant::now();
            let word = format!("w{}x{n}z", self.name);
            if !self.ask(&word).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if began.elapsed() > HANG {
                self.seen
                    .wrong(format!("{word} waited {:?}", began.elapsed()));
            }
            if n % 5 == 0 {
                self.remember().await;
            }
        }
        // Whatever broke is whole again.
        let begun = Instant::now();
        while !self.remember().await {
            if begun.elapsed() > HANG {
                self.seen
                    .wrong(format!("{} cannot be asked for", self.session));
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether it was answered.
    async fn ask(&mut self, word: &str) -> bool {
        let body = json!({ "message": word, "session_id": self.session });
        let request = self.client.post(format!("{}/chat", self.base)).json(&body);
        let (status, text) = match request.send().await {
            Ok(response) => (response.status().as_u16(), response.text().await),
            Err(error) => {
                if error.is_timeout() {
                    self.seen.wrong(format!("{word} was not answered at all"));
                }
                self.seen.broken_off.fetch_add(1, Ordering::Relaxed);
                return false;
            }
        };
        match (status, text) {
            (200, Ok(text)) => {
                let whole = match self.says {
                    Says::Script => text.contains(" ten"),
                    Says::Echo => text.contains(word),
                };
                if !whole || self.strange(&text).is_some() {
                    self.seen.wrong(format!("{word} was answered with {text}"));
                }
                self.seen.whole.fetch_add(1, Ordering::Relaxed);
                self.finished.push(word.to_owned());
                true
            }
            (200, Err(_)) => {
                self.seen.broken_off.fetch_add(1, Ordering::Relaxed);
                false
            }
            (status, text) => {
                if !REFUSALS.contains(&status) {
                    self.seen.wrong(format!("{word}: {status} {text:?}"));
                }
                self.seen.refused.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// Looks for everything that was finished, and for words of others; false where the history
    /// cannot be had.
    async fn remember(&self) -> bool {
        let url = format!("{}/sessions/{}", self.base, self.session);
        let Ok(response) = self.client.get(url).send().await else {
            return false;
        };
        let status = response.status().as_u16();
        let Ok(history) = response.text().await else {
            return false;
        };
        // 404: nothing was finished yet, or everything is lost, which is found below.
        if ![200, 404].contains(&status) {
            return false;
        }
        // Sessions remember so many exchanges; these are fewer.
        for word in self.finished.iter().rev().take(100) {
            if !history.contains(word.as_str()) {
                self.seen
                    .wrong(format!("{word} was finished and is not in {history}"));
                break;
            }
        }
        if let Some(strange) = self.strange(&history) {
            self.seen
                .wrong(format!("{strange} was read by {}", self.name));
        }
        self.seen.checked.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// A word that somebody else has said.
    fn strange<'a>(&self, text: &'a str) -> Option<&'a str> {
        let own = format!("w{}x", self.name);
        text.split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| word.starts_with('w') && word.ends_with('z') && word.contains('x'))
            .find(|word| !word.starts_with(&own))
    }
}

/// The people, and when they may go home.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
    people: Vec<tokio::task::JoinHandle<()>>,
    pub began: Instant,
}

impl Crowd {
    pub fn gather(server: &Server, people: usize, says: Says) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Seen::default());
        let come = |name| {
            let person = Person {
                name,
                session: format!("person-{name}-{}", std::process::id()),
                base: server.base.clone(),
                client: reqwest::Client::builder().timeout(HANG).build().unwrap(),
                says,
                finished: Vec::new(),
                seen: Arc::clone(&seen),
            };
            tokio::spawn(person.live(Arc::clone(&stop)))
        };
        Self {
            people: (0..people).map(come).collect(),
            stop,
            seen,
            began: Instant::now(),
        }
    }

    /// How many requests were refused so far.
    pub fn refused(&self) -> u64 {
        self.seen.refused.load(Ordering::Relaxed)
    }

    pub async fn go_home(self, faults: usize, slowest: (&str, Duration), log: &str) {
        self.stop.store(true, Ordering::SeqCst);
        for person in self.people {
            let home = tokio::time::timeout(HANG * 2, person).await;
            home.expect("nobody hangs").unwrap();
        }
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let seen = &self.seen;
        println!(
            "{faults} faults in {:.0?}: {} answers, {} refused, {} broken off, {} looks at \
             histories; slowest recovery {:.1?} after {}",
            self.began.elapsed(),
            count(&seen.whole),
            count(&seen.refused),
            count(&seen.broken_off),
            count(&seen.checked),
            slowest.1,
            slowest.0,
        );
        let wrong = seen.wrong.lock().unwrap();
        let few: Vec<_> = wrong.iter().take(5).collect();
        assert!(wrong.is_empty(), "{} wrong: {few:#?}\n{log}", wrong.len());
        assert!(count(&seen.whole) > 20, "that was no load");
        assert!(count(&seen.checked) > 5, "nobody looked at a history");
    }
}
