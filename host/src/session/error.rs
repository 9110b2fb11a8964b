//! What can go wrong with a session.

use std::time::Duration;

use crate::seal::SealError;

#[derive(Clone, Debug, thiserror::Error)]
pub enum SessionError {
    /// Another request writes to the session.
    #[error(
        "session_id: another request of this session is still running{}",
        waited_for(.waited)
    )]
    Busy { waited: Duration },
    /// The right to write was lost, and another request has written since.
    #[error("session_id: another request has written to this session meanwhile")]
    Taken,
    /// The store cannot be reached or does not work. The words name no session.
    #[error("the session store failed: {why}")]
    Store {
        /// A fixed word for labels and spans.
        kind: &'static str,
        why: String,
    },
    /// What is stored cannot be read: another version, another key, damage.
    #[error("this session cannot be read: {0}")]
    Unreadable(String),
    /// The configuration or the surroundings do not allow the store to be opened.
    #[error("{0}")]
    Open(String),
}

fn waited_for(waited: &Duration) -> String {
    match waited.is_zero() {
        true => String::new(),
        false => format!(", and did not end within {waited:?} (sessions.busy_timeout)"),
    }
}

impl From<SealError> for SessionError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Setting(why) => Self::Open(why),
            SealError::Unreadable(why) => Self::Unreadable(why),
        }
    }
}

impl SessionError {
    /// What is wrong with the store, in a fixed word; `None` where it is not the store's fault.
    pub fn trouble(&self) -> Option<&'static str> {
        match self {
            Self::Store { kind, .. } => Some(kind),
            _ => None,
        }
    }

    /// A fixed word, for labels and spans.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::Taken => "taken",
            Self::Store { kind, .. } => kind,
            Self::Unreadable(_) => "unreadable",
            Self::Open(_) => "open",
        }
    }
}
