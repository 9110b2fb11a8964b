//! Sessions on a Redis or Valkey server, for several hosts.
//!
//! A session is one hash: a field for each exchange under its number, and `next`. The right to
//! write is a lease beside it, which its holder renews; who dies loses it after [`LEASE`]. Both
//! keys have the same hash tag. Every change is one script, which happens as a whole or not at
//! all, and which may be sent twice.

mod scripts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::error::SessionError;
use super::format;
use super::settings::Settings;
use super::store::{Addition, Begun, Lease, Place, Records, Store, Stored, Work};
use crate::redis::{Address, FromRedisValue, Redis, Script, ScriptInvocation, Trouble, cmd};
use crate::seal::Keys;
use crate::types::{SessionId, SessionKey, TenantId};
use scripts::Scripts;

/// A lease that is not renewed for so long is anybody's.
const LEASE: Duration = Duration::from_secs(10);
/// Most tries of one change: after a lost answer it is sent again.
const TRIES: u32 = 3;

/// A hash: names and values.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Clone)]
pub struct Shared {
    redis: Redis,
    keys: Keys,
    scripts: Arc<Scripts>,
    ttl_ms: u64,
    max_exchanges: u32,
}

fn failed(trouble: Trouble, redis: &Redis) -> SessionError {
    SessionError::Store {
        kind: trouble.kind(),
        why: format!("Redis at {}: {trouble}", redis.address()),
    }
}

impl Shared {
    pub fn open(settings: &Settings, address: &Address, keys: Keys) -> Result<Self, SessionError> {
        let redis = Redis::open(address, settings.timeout)
            .map_err(|why| SessionError::Open(format!("sessions.store: {why}")))?;
        Ok(Self {
            redis,
            keys,
            scripts: Arc::default(),
            ttl_ms: u64::try_from(settings.ttl.as_millis()).unwrap_or(u64::MAX),
            max_exchanges: settings.max_exchanges,
        })
    }

    pub fn is_healthy(&self) -> bool {
        self.redis.is_healthy()
    }

    /// Runs a script, which may have been carried out although this fails.
    async fn script<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, SessionError> {
        self.redis
            .run(|mut connection| async move { call.invoke_async::<T>(&mut connection).await })
            .await
            .map_err(|trouble| failed(trouble, &self.redis))
    }

    fn decode(&self, key: &SessionKey, fields: Fields) -> Result<Records, SessionError> {
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u32>().ok();
        let sorted: BTreeMap<u32, Vec<u8>> = fields
            .into_iter()
            .filter_map(|(field, record)| Some((number(&field)?, record)))
            .collect();
        let decode =
            |(at, bytes): (u32, Vec<u8>)| format::decode(key, at, &bytes, &self.keys).map(Arc::new);
        sorted.into_iter().map(decode).collect()
    }

    /// Renews a lease until it is given back: nobody holds it any more then.
    fn keep(&self, key: &SessionKey, token: &Arc<str>) {
        let (token, lease) = (Arc::downgrade(token), lease_name(key));
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LEASE / 4).await;
                let Some(token) = token.upgrade() else { return };
                let mut call = call(&this.scripts.renew, &[&lease]);
                call.arg(&*token).arg(millis(LEASE));
                // A failure is the next try's business, and at last the append's.
                let _ = this.script::<i64>(&call).await;
            }
        });
    }

    /// Gives a lease back that nobody knows to be held: the answer was lost. It is tried until it
    /// would have run out by itself.
    fn give_back(&self, key: &SessionKey, token: &str) {
        let (this, lease, token) = (self.clone(), lease_name(key), token.to_owned());
        tokio::spawn(async move {
            for _ in 0..40 {
                let mut call = call(&this.scripts.release, &[&lease]);
                call.arg(&token);
                if this.script::<i64>(&call).await.is_ok() {
                    return;
                }
                tokio::time::sleep(LEASE / 40).await;
            }
        });
    }

    /// Sends a change again while its answer is lost, as the scripts allow.
    async fn insist(&self, call: &ScriptInvocation<'_>) -> Result<String, SessionError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.script(call).await {
                Err(SessionError::Store {
                    kind: "slow" | "lost",
                    ..
                }) if tries < TRIES => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                done => return done,
            }
        }
    }
}

/// A script about these keys; its arguments follow.
fn call<'s>(script: &'s Script, keys: &[&str]) -> ScriptInvocation<'s> {
    let mut call = script.prepare_invoke();
    for key in keys {
        call.key(*key);
    }
    call
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

const PREFIX: &str = "stent:session:{";

/// The braces are Redis Cluster's: what is within them decides where a key lies.
fn session_name(key: &SessionKey) -> String {
    format!("{PREFIX}{}/{}}}", key.tenant, key.session.as_str())
}

fn lease_name(key: &SessionKey) -> String {
    format!("stent:lease:{{{}/{}}}", key.tenant, key.session.as_str())
}

/// The reverse of [`session_name`]; a session's id holds no slash.
fn named(name: &str) -> Option<SessionKey> {
    let inner = name.strip_prefix(PREFIX)?.strip_suffix('}')?;
    let (tenant, session) = inner.rsplit_once('/')?;
    Some(SessionKey {
        tenant: TenantId::new(tenant),
        session: SessionId::parse(session).ok()?,
    })
}

fn token() -> Result<Arc<str>, SessionError> {
    let mut bits = [0_u8; 16];
    getrandom::fill(&mut bits).map_err(|e| SessionError::Store {
        kind: "random",
        why: format!("no randomness for a lease: {e}"),
    })?;
    Ok(hex::encode(bits).into())
}

impl Store for Shared {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn begin<'a>(&'a self, key: &'a SessionKey) -> Work<'a, Option<Begun>> {
        Box::pin(async move {
            let token = token()?;
            let mut call = call(&self.scripts.begin, &[&session_name(key), &lease_name(key)]);
            call.arg(&*token).arg(millis(LEASE));
            let (got, fields): (i64, Fields) = match self.script(&call).await {
                Ok(answer) => answer,
                Err(error) => {
                    // It may have been carried out: nobody should wait for it.
                    self.give_back(key, &token);
                    return Err(error);
                }
            };
            if got == 0 {
                return Ok(None);
            }
            let records = match self.decode(key, fields) {
                Ok(records) => records,
                Err(error) => {
                    self.release(key, Lease::Shared(token)).await;
                    return Err(error);
                }
            };
            self.keep(key, &token);
            Ok(Some(Begun {
                records,
                lease: Lease::Shared(token),
                place: self.name().into(),
            }))
        })
    }

    fn append<'a>(
        &'a self,
        key: &'a SessionKey,
        lease: Lease,
        addition: Addition,
    ) -> Work<'a, (Stored, Place)> {
        Box::pin(async move {
            let token = match &lease {
                Lease::Shared(token) => &**token,
                _ => "",
            };
            let record = &addition.record;
            let bytes = format::encode(key, record, &self.keys)?;
            let mut call = call(
                &self.scripts.append,
                &[&session_name(key), &lease_name(key)],
            );
            call.arg(token).arg(record.exchange).arg(bytes);
            call.arg(self.max_exchanges).arg(self.ttl_ms);
            call.arg(addition.expects());
            let done = self.insist(&call).await;
            if done.is_err() {
                self.give_back(key, token);
            }
            let stored = match done?.as_str() {
                "kept" => Stored::Kept,
                "anew" => Stored::Anew,
                "forgotten" => Stored::Forgotten,
                _ => Stored::Taken,
            };
            Ok((stored, self.name().into()))
        })
    }

    fn release<'a>(&'a self, key: &'a SessionKey, lease: Lease) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Lease::Shared(token) = lease else { return };
            let mut call = call(&self.scripts.release, &[&lease_name(key)]);
            call.arg(&*token);
            // Otherwise it runs out by itself.
            let _ = self.script::<i64>(&call).await;
        })
    }

    fn load<'a>(&'a self, key: &'a SessionKey) -> Work<'a, Records> {
        Box::pin(async move {
            let mut get = cmd("HGETALL");
            get.arg(session_name(key));
            let get = &get;
            let ask = self
                .redis
                .run(|mut connection| async move { get.query_async(&mut connection).await });
            let fields = ask.await.map_err(|trouble| failed(trouble, &self.redis))?;
            self.decode(key, fields)
        })
    }

    fn forget<'a>(&'a self, key: &'a SessionKey) -> Work<'a, bool> {
        Box::pin(async move {
            let call = call(
                &self.scripts.forget,
                &[&session_name(key), &lease_name(key)],
            );
            Ok(self.script::<i64>(&call).await? == 1)
        })
    }

    fn list<'a>(
        &'a self,
        after: Option<String>,
        limit: usize,
    ) -> Work<'a, (Vec<SessionKey>, Option<String>)> {
        Box::pin(async move {
            let cursor = after.unwrap_or_else(|| "0".into());
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg("stent:session:*");
            scan.arg("COUNT").arg(limit);
            let scan = &scan;
            let ask = self
                .redis
                .run(|mut connection| async move { scan.query_async(&mut connection).await });
            let (next, names): (String, Vec<String>) =
                ask.await.map_err(|trouble| failed(trouble, &self.redis))?;
            let keys = names.iter().filter_map(|name| named(name)).collect();
            Ok((keys, Some(next).filter(|next| next != "0")))
        })
    }

    fn replace<'a>(&'a self, key: &'a SessionKey, lease: Lease, records: Records) -> Work<'a, ()> {
        Box::pin(async move {
            let next = records.last().map_or(0, |record| record.exchange + 1);
            let mut call = call(&self.scripts.replace, &[&session_name(key)]);
            call.arg(self.ttl_ms).arg(next);
            for record in &records {
                let bytes = format::encode(key, record, &self.keys)?;
                call.arg(record.exchange).arg(bytes);
            }
            let done = self.script::<i64>(&call).await.map(drop);
            self.release(key, lease).await;
            done
        })
    }

    fn count(&self) -> Option<u64> {
        None
    }

    fn server(&self) -> Option<&Redis> {
        Some(&self.redis)
    }

    fn trouble(&self) -> Option<String> {
        self.redis.trouble()
    }
}
