//! Sessions as lines of JSON, one each: a backup that any store takes back.

use std::io::{self, BufRead, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::SessionError;
use super::format::{VERSION, check_version};
use super::record::Record;
use super::{Opened, Sessions};
use crate::types::{SessionId, SessionKey, TenantId};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    format: u8,
    tenant: TenantId,
    session: String,
    exchanges: Vec<Arc<Record>>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub sessions: u64,
    pub exchanges: u64,
    /// Sessions that were there already and were left as they are.
    pub skipped: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("line {line}: {problem}")]
    Line { line: u64, problem: String },
    #[error("the backup cannot be read or written: {0}")]
    Io(#[from] io::Error),
}

/// Sessions asked for at a time.
const PAGE: usize = 200;

impl Sessions {
    /// Writes every session.
    ///
    /// # Errors
    /// At the first session that cannot be read, or line that cannot be written.
    pub async fn export(&self, out: &mut (dyn Write + Send)) -> Result<Counts, BackupError> {
        let (mut counts, mut cursor) = (Counts::default(), None);
        loop {
            let (keys, next) = self.store.list(cursor, PAGE).await?;
            for key in keys {
                let exchanges = self.store.load(&key).await?;
                // It went meanwhile.
                if exchanges.is_empty() {
                    continue;
                }
                counts.sessions += 1;
                counts.exchanges += exchanges.len() as u64;
                let line = Line {
                    format: VERSION,
                    tenant: key.tenant,
                    session: key.session.as_str().to_owned(),
                    exchanges,
                };
                serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
                out.write_all(b"\n")?;
            }
            cursor = next;
            if cursor.is_none() {
                out.flush()?;
                return Ok(counts);
            }
        }
    }

    /// Takes in what [`Sessions::export`] wrote. A session that is there already stays, unless
    /// `replace`; its time to live begins anew.
    ///
    /// # Errors
    /// At the first line that cannot be taken in; those before it were.
    pub async fn import(&self, lines: impl BufRead, replace: bool) -> Result<Counts, BackupError> {
        let mut counts = Counts::default();
        for (at, line) in (1..).zip(lines.lines()) {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let (key, records) =
                read(&line).map_err(|problem| BackupError::Line { line: at, problem })?;
            let Opened {
                session,
                mut writer,
                ..
            } = self.open_for(key).await?;
            if !session.messages.is_empty() && !replace {
                counts.skipped += 1;
                continue;
            }
            counts.sessions += 1;
            counts.exchanges += records.len() as u64;
            if let Some(lease) = writer.lease.take() {
                self.store.replace(&writer.key, lease, records).await?;
            }
        }
        Ok(counts)
    }
}

fn read(line: &str) -> Result<(SessionKey, Vec<Arc<Record>>), String> {
    let format = serde_json::from_str::<Format>(line).map_err(|e| e.to_string())?;
    check_version(format.format).map_err(|e| e.to_string())?;
    let line: Line = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let session = SessionId::parse(&line.session)?;
    let rising = line.exchanges.windows(2).all(|pair| match pair {
        [a, b] => a.exchange < b.exchange,
        _ => true,
    });
    if line.exchanges.is_empty() || !rising {
        return Err("exchanges: expected at least one, with rising numbers".into());
    }
    let key = SessionKey {
        tenant: line.tenant,
        session,
    };
    Ok((key, line.exchanges))
}

/// A line of a newer version may hold anything beside it.
#[derive(Deserialize)]
struct Format {
    format: u8,
}
