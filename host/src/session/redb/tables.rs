//! The tables of the file, and what is done to them within one transaction.

use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, Table,
    TableDefinition, WriteTransaction,
};

use super::Raw;
use crate::seal::Keys;
use crate::session::error::SessionError;
use crate::session::format;
use crate::session::record::now_ms;
use crate::session::store::Stored;
use crate::types::{SessionId, SessionKey, TenantId};

/// Tenant and session.
type Pair = (&'static str, &'static str);

/// Tenant, session and number of an exchange, and its record.
const RECORDS: TableDefinition<(&str, &str, u32), &[u8]> = TableDefinition::new("records");
/// A session's next number, its bytes, and when its last exchange was added, in ms since 1970.
const HEADS: TableDefinition<Pair, (u32, u64, u64)> = TableDefinition::new("heads");
/// The same by time: the first one is the next to go.
const BY_TIME: TableDefinition<(u64, &str, &str), ()> = TableDefinition::new("by_time");
/// When a session was forgotten: an answer that another process began before that is not kept.
const FORGOTTEN: TableDefinition<Pair, u64> = TableDefinition::new("forgotten");
/// Bytes of all records together.
const BYTES: TableDefinition<(), u64> = TableDefinition::new("bytes");
/// `version`: of the tables; `key:ID`: a text sealed with that key.
const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");

/// Bytes that a record takes beside itself.
const OVERHEAD: u64 = 64;
const SEALED_TEXT: &[u8] = b"stent";
/// No answer takes longer, in ms.
const LONGEST: u64 = 24 * 3600 * 1000;

#[derive(Clone, Copy)]
pub struct Limits {
    pub ttl_ms: u64,
    pub max_bytes: u64,
    pub max_exchanges: u32,
}

/// Makes the tables where there are none, checks version and keys. The inner error is a sentence
/// about what the file holds; otherwise, how many sessions there are.
pub fn prepare(
    database: &Database,
    limits: Limits,
    keys: &Keys,
) -> Result<Result<u64, String>, redb::Error> {
    let transaction = database.begin_write()?;
    let count = {
        let tables = Tables::open(&transaction, limits, now_ms())?;
        let mut facts = transaction.open_table(FACTS)?;
        let version = facts
            .get("version")?
            .and_then(|v| v.value().first().copied());
        if let Some(version) = version {
            if let Err(why) = format::check_version(version) {
                return Ok(Err(why.to_string()));
            }
        } else {
            facts.insert("version", [format::VERSION].as_slice())?;
        }
        if let Err(why) = check_keys(&mut facts, keys)? {
            return Ok(Err(why.to_string()));
        }
        tables.count()?
    };
    transaction.commit()?;
    Ok(Ok(count))
}

/// A wrong key is told at the start, and not by the first session that does not open.
fn check_keys(
    facts: &mut Table<'_, &'static str, &'static [u8]>,
    keys: &Keys,
) -> Result<Result<(), SessionError>, redb::Error> {
    for id in keys.ids() {
        let fact = format!("key:{id}");
        if let Some(sealed) = facts.get(fact.as_str())?
            && let Err(why) = keys.open(fact.as_bytes(), sealed.value())
        {
            return Ok(Err(why.into()));
        }
    }
    let Some(id) = keys.sealing() else {
        return Ok(Ok(()));
    };
    let fact = format!("key:{id}");
    if facts.get(fact.as_str())?.is_none() {
        match keys.seal(fact.as_bytes(), SEALED_TEXT) {
            Ok(sealed) => {
                facts.insert(fact.as_str(), sealed.unwrap_or_default().as_slice())?;
            }
            Err(why) => return Ok(Err(why.into())),
        }
    }
    Ok(Ok(()))
}

pub struct Tables<'t> {
    records: Table<'t, (&'static str, &'static str, u32), &'static [u8]>,
    heads: Table<'t, Pair, (u32, u64, u64)>,
    by_time: Table<'t, (u64, &'static str, &'static str), ()>,
    forgotten: Table<'t, Pair, u64>,
    bytes: Table<'t, (), u64>,
    limits: Limits,
    now: u64,
}

impl<'t> Tables<'t> {
    /// `now` in milliseconds since 1970.
    pub fn open(
        transaction: &'t WriteTransaction,
        limits: Limits,
        now: u64,
    ) -> Result<Self, redb::Error> {
        Ok(Self {
            records: transaction.open_table(RECORDS)?,
            heads: transaction.open_table(HEADS)?,
            by_time: transaction.open_table(BY_TIME)?,
            forgotten: transaction.open_table(FORGOTTEN)?,
            bytes: transaction.open_table(BYTES)?,
            limits,
            now,
        })
    }

    pub fn count(&self) -> Result<u64, redb::Error> {
        Ok(self.heads.len()?)
    }

    fn total(&self) -> Result<u64, redb::Error> {
        Ok(self.bytes.get(())?.map_or(0, |bytes| bytes.value()))
    }

    fn add_total(&mut self, more: u64, less: u64) -> Result<(), redb::Error> {
        let total = self.total()?.saturating_add(more).saturating_sub(less);
        self.bytes.insert((), total)?;
        Ok(())
    }

    /// Writes something that changes nothing.
    pub fn touch(&mut self) -> Result<(), redb::Error> {
        self.add_total(0, 0)
    }

    /// Adds a record where `expected` is the next number, behind the others or in the last one's
    /// place, and drops the oldest of too many. `seen`: when the session was last forgotten, as its
    /// writer found it.
    pub fn append(
        &mut self,
        key: &SessionKey,
        expected: u32,
        (at, record): (u32, &[u8]),
        seen: u64,
    ) -> Result<Stored, redb::Error> {
        let pair = pair(key);
        if self.forgotten.get(pair)?.map_or(0, |time| time.value()) > seen {
            return Ok(Stored::Forgotten);
        }
        let next = self.heads.get(pair)?.map(|head| head.value().0);
        if next.is_some_and(|next| next != expected) {
            return Ok(Stored::Taken);
        }
        self.put(pair, at, record)?;
        Ok(match next {
            None if expected > 0 => Stored::Anew,
            _ => Stored::Kept,
        })
    }

    fn put(
        &mut self,
        (tenant, session): (&str, &str),
        at: u32,
        record: &[u8],
    ) -> Result<(), redb::Error> {
        let head = self.heads.get((tenant, session))?.map(|head| head.value());
        let (_, bytes, last) = head.unwrap_or_default();
        if head.is_some() {
            self.by_time.remove((last, tenant, session))?;
        }
        let size = |record: &[u8]| record.len() as u64 + OVERHEAD;
        let replaced = self.records.insert((tenant, session, at), record)?;
        let mut gone = replaced.map_or(0, |old| size(old.value()));
        let oldest = (at + 1).saturating_sub(self.limits.max_exchanges);
        let old = (tenant, session, 0)..(tenant, session, oldest);
        for entry in self.records.extract_from_if(old, |_, _| true)? {
            gone += size(entry?.1.value());
        }
        let bytes = (bytes + size(record)).saturating_sub(gone);
        let head = (at + 1, bytes, self.now);
        self.heads.insert((tenant, session), head)?;
        self.by_time.insert((self.now, tenant, session), ())?;
        self.add_total(size(record), gone)
    }

    /// Puts these records in the place of whatever is there.
    pub fn replace(
        &mut self,
        key: &SessionKey,
        records: &[(u32, Vec<u8>)],
    ) -> Result<(), redb::Error> {
        self.drop_session(pair(key))?;
        for (at, record) in records {
            self.put(pair(key), *at, record)?;
        }
        Ok(())
    }

    /// Removes a session; tells whether there was one.
    pub fn forget(&mut self, key: &SessionKey) -> Result<bool, redb::Error> {
        let before = self
            .forgotten
            .get(pair(key))?
            .map_or(0, |time| time.value());
        self.forgotten.insert(pair(key), self.now.max(before + 1))?;
        self.drop_session(pair(key))
    }

    fn drop_session(&mut self, (tenant, session): (&str, &str)) -> Result<bool, redb::Error> {
        let head = self.heads.remove((tenant, session))?;
        let Some((_, bytes, last)) = head.map(|head| head.value()) else {
            return Ok(false);
        };
        self.by_time.remove((last, tenant, session))?;
        let all = (tenant, session, 0)..=(tenant, session, u32::MAX);
        self.records.retain_in(all, |_, _| false)?;
        self.add_total(0, bytes)?;
        Ok(true)
    }

    /// The session whose last exchange is longest ago.
    fn oldest(&self) -> Result<Option<(u64, String, String)>, redb::Error> {
        Ok(self.by_time.first()?.map(|(name, _)| {
            let (time, tenant, session) = name.value();
            (time, tenant.to_owned(), session.to_owned())
        }))
    }

    /// Removes sessions whose time is over; how many.
    pub fn expire(&mut self) -> Result<usize, redb::Error> {
        let since = self.now.saturating_sub(self.limits.ttl_ms);
        let mut gone = 0;
        while let Some((time, tenant, session)) = self.oldest()? {
            if time >= since {
                break;
            }
            self.drop_session((&tenant, &session))?;
            gone += 1;
        }
        Ok(gone)
    }

    /// Removes the oldest sessions until the records fit; how many.
    pub fn shrink(&mut self) -> Result<usize, redb::Error> {
        let mut gone = 0;
        while self.total()? > self.limits.max_bytes {
            let Some((_, tenant, session)) = self.oldest()? else {
                break;
            };
            self.drop_session((&tenant, &session))?;
            gone += 1;
        }
        Ok(gone)
    }

    /// Removes what says that sessions were forgotten, where nobody can ask any more; how many.
    pub fn sweep(&mut self) -> Result<usize, redb::Error> {
        let since = self.now.saturating_sub(LONGEST);
        let before = self.forgotten.len()?;
        self.forgotten.retain(|_, time| time >= since)?;
        Ok(usize::try_from(before - self.forgotten.len()?).unwrap_or(usize::MAX))
    }
}

fn pair(key: &SessionKey) -> (&str, &str) {
    (key.tenant.as_str(), key.session.as_str())
}

/// A session's records in order, none where its last exchange was before `since`, and when it was
/// last forgotten.
pub fn load(database: &Database, key: &SessionKey, since: u64) -> Result<(Raw, u64), redb::Error> {
    let transaction = database.begin_read()?;
    let forgotten = transaction.open_table(FORGOTTEN)?.get(pair(key))?;
    let forgotten = forgotten.map_or(0, |time| time.value());
    let head = transaction.open_table(HEADS)?.get(pair(key))?;
    if head.is_none_or(|head| head.value().2 < since) {
        return Ok((Vec::new(), forgotten));
    }
    let (tenant, session) = pair(key);
    let records = transaction.open_table(RECORDS)?;
    let all = records.range((tenant, session, 0)..=(tenant, session, u32::MAX))?;
    let mut raw = Raw::new();
    for entry in all {
        let (name, record) = entry?;
        raw.push((name.value().2, record.value().to_vec()));
    }
    Ok((raw, forgotten))
}

/// The sessions behind a cursor, `tenant/session`.
pub fn list(
    database: &Database,
    after: Option<&str>,
    limit: usize,
) -> Result<(Vec<SessionKey>, Option<String>), redb::Error> {
    let heads = database.begin_read()?.open_table(HEADS)?;
    let start = after
        .and_then(|cursor| cursor.rsplit_once('/'))
        .unwrap_or_default();
    let (mut keys, mut cursor) = (Vec::new(), None);
    for entry in heads.range(start..)? {
        let (name, _) = entry?;
        let (tenant, session) = name.value();
        if (tenant, session) == start {
            continue;
        }
        if keys.len() == limit {
            break;
        }
        cursor = Some(format!("{tenant}/{session}"));
        // Only what was parsed once is ever written.
        if let Ok(session) = SessionId::parse(session) {
            keys.push(SessionKey {
                tenant: TenantId::new(tenant),
                session,
            });
        }
    }
    let more = keys.len() == limit;
    Ok((keys, cursor.filter(|_| more)))
}
