//! What was said before: each session's history, keyed by tenant and session.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::types::{Message, SessionKey, Token, units};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub store: Store,
    /// A session that is not used for so long is forgotten.
    #[serde(with = "units::duration")]
    pub ttl: Duration,
    /// Bytes that all histories together may take; the least recently used go first.
    #[serde(with = "units::bytes")]
    pub max_bytes: u64,
    /// Exchanges that one session remembers; the oldest go first.
    pub max_exchanges: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// In this process; gone with it.
    Memory,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: Store::Memory,
            ttl: Duration::from_secs(24 * 3600),
            max_bytes: 256 << 20,
            max_exchanges: 200,
        }
    }
}

/// The store counts time in a way that ends; nobody waits longer than this.
const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Settings {
    /// One sentence for the first value that cannot work.
    ///
    /// # Errors
    /// A sentence that names key, value and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if self.ttl.is_zero() || self.ttl > MAX_TTL {
            return Err(format!(
                "sessions.ttl: {}, expected more than 0s and at most 100 years",
                humantime::format_duration(self.ttl)
            ));
        }
        Ok(())
    }
}

/// A session's history as one request sees it.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// The first message that trimming kept the last time.
    pub anchor: Option<u64>,
    next_id: u64,
    next_exchange: u32,
}

/// A question and its answer, as they go into the history: both or neither.
pub struct Exchange {
    pub question: Message,
    pub answer: Message,
    pub anchor: Option<u64>,
}

impl Session {
    /// Id and exchange number for the next message.
    pub fn next(&self) -> (u64, u32) {
        (self.next_id, self.next_exchange)
    }

    /// Ids are given here, under the session's lock: of two requests at once, the one that ends
    /// last comes last, and no id is used twice.
    fn append(&mut self, exchange: Exchange, max_exchanges: u32) {
        for mut message in [exchange.question, exchange.answer] {
            message.id = self.next_id;
            message.exchange = self.next_exchange;
            self.next_id += 1;
            self.messages.push(message);
        }
        self.next_exchange += 1;
        self.anchor = exchange.anchor;
        let oldest = self.next_exchange.saturating_sub(max_exchanges);
        self.messages.retain(|message| message.exchange >= oldest);
    }

    fn bytes(&self) -> usize {
        const PER_MESSAGE: usize = size_of::<Message>() + 64;
        self.messages
            .iter()
            .map(|m| m.text.len() + m.tokens.len() * size_of::<Token>() + PER_MESSAGE)
            .sum()
    }
}

type Shared = Arc<Mutex<Session>>;

/// All sessions of this process.
pub struct Sessions {
    held: Cache<SessionKey, Shared>,
    max_exchanges: u32,
}

impl Sessions {
    pub fn new(settings: &Settings) -> Self {
        let weigh = |key: &SessionKey, session: &Shared| {
            let bytes = key.session.as_str().len() + locked(session, |s| s.bytes()) + 256;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Self {
            held: Cache::builder()
                .max_capacity(settings.max_bytes)
                .weigher(weigh)
                .time_to_idle(settings.ttl)
                .build(),
            max_exchanges: settings.max_exchanges,
        }
    }

    /// The session's history; empty where nothing was said yet.
    pub async fn load(&self, key: &SessionKey) -> Session {
        self.held
            .get(key)
            .map(|session| locked(&session, |s| s.clone()))
            .unwrap_or_default()
    }

    /// Adds a finished exchange.
    pub async fn append(&self, key: &SessionKey, exchange: Exchange) {
        let session = self.held.get_with(key.clone(), Shared::default);
        locked(&session, |s| s.append(exchange, self.max_exchanges));
        // Put back, so that its new weight counts.
        self.held.insert(key.clone(), session);
    }

    /// Forgets the session; tells whether there was one.
    pub async fn forget(&self, key: &SessionKey) -> bool {
        self.held.remove(key).is_some()
    }

    /// How many sessions are held (moka's estimate).
    pub fn count(&self) -> u64 {
        self.held.entry_count()
    }
}

/// A poisoned lock is taken all the same: an append is all or nothing, so the data is whole.
fn locked<T>(session: &Shared, f: impl FnOnce(&mut Session) -> T) -> T {
    f(&mut session
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Role, SessionId, TenantId};

    fn message(role: Role, text: &str) -> Message {
        Message {
            id: 0,
            role,
            text: text.into(),
            tokens: Arc::from([1, 2]),
            pinned: false,
            exchange: 0,
        }
    }

    fn exchange(text: &str) -> Exchange {
        Exchange {
            question: message(Role::User, text),
            answer: message(Role::Assistant, "yes"),
            anchor: None,
        }
    }

    fn key(tenant: &str, session: &str) -> SessionKey {
        SessionKey {
            tenant: TenantId::new(tenant),
            session: SessionId::parse(session).unwrap(),
        }
    }

    #[tokio::test]
    async fn exchanges_come_back_in_order_with_rising_ids() {
        let sessions = Sessions::new(&Settings::default());
        let key = key("t", "s");
        sessions.append(&key, exchange("one")).await;
        sessions.append(&key, exchange("two")).await;
        let session = sessions.load(&key).await;
        let ids: Vec<_> = session
            .messages
            .iter()
            .map(|m| (m.id, m.exchange))
            .collect();
        assert_eq!(ids, [(0, 0), (1, 0), (2, 1), (3, 1)]);
        assert_eq!(session.next(), (4, 2));
    }

    #[tokio::test]
    async fn neither_another_tenant_nor_another_session_sees_it() {
        let sessions = Sessions::new(&Settings::default());
        sessions.append(&key("a", "s"), exchange("secret")).await;
        assert!(sessions.load(&key("b", "s")).await.messages.is_empty());
        assert!(sessions.load(&key("a", "t")).await.messages.is_empty());
        assert!(!sessions.forget(&key("b", "s")).await);
        assert!(sessions.forget(&key("a", "s")).await);
        assert!(sessions.load(&key("a", "s")).await.messages.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_exchange_goes_when_there_are_too_many() {
        let sessions = Sessions::new(&Settings {
            max_exchanges: 2,
            ..Settings::default()
        });
        let key = key("t", "s");
        for text in ["one", "two", "three"] {
            sessions.append(&key, exchange(text)).await;
        }
        let session = sessions.load(&key).await;
        assert_eq!(session.messages.len(), 4);
        assert_eq!(&*session.messages[0].text, "two");
    }
}
