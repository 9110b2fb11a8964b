//! Answers on a Redis or Valkey server.
//!
//! An answer is a string with a time to live. Beside all of them lie an index by last use and the
//! sizes, so that `cache.max_bytes` is kept whatever else the server holds: storing drops the least
//! used. An answer that ran out counts until its turn comes, so that the bound is never passed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::settings::Settings;
use super::{Cached, Failure, Key, format};
use crate::redis::{Address, FromRedisValue, Redis, Script, ScriptInvocation};
use crate::seal::Keys;

/// All names share a hash tag: on a cluster they lie together, as scripts need them.
const PREFIX: &str = "stent:{answers}:";
const BY_USE: &str = "stent:{answers}:by-use";
const SIZES: &str = "stent:{answers}:sizes";

/// The answer, or nil; its use is taken down.
const GET: &str = r"
local answer = redis.call('GET', KEYS[1])
if answer then
  local t = redis.call('TIME')
  redis.call('ZADD', KEYS[2], 'XX', t[1] * 1000 + math.floor(t[2] / 1000), KEYS[1])
end
return answer";

/// answer, ttl ms, most bytes -> answers and bytes that are held now. What an entry takes beside
/// its text (names, index) was measured at about 560 bytes.
const PUT: &str = r"
local size, most = #ARGV[1] + 600, tonumber(ARGV[3])
local old = tonumber(redis.call('HGET', KEYS[3], KEYS[1]) or 0)
local total = tonumber(redis.call('HGET', KEYS[3], 'total') or 0)
if size <= most then
  local t = redis.call('TIME')
  redis.call('ZADD', KEYS[2], t[1] * 1000 + math.floor(t[2] / 1000), KEYS[1])
  redis.call('HSET', KEYS[3], KEYS[1], size)
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  total = total + size - old
end
while total > most do
  local least = redis.call('ZPOPMIN', KEYS[2])
  if #least == 0 then total = 0 break end
  total = total - tonumber(redis.call('HGET', KEYS[3], least[1]) or 0)
  redis.call('HDEL', KEYS[3], least[1])
  redis.call('DEL', least[1])
end
redis.call('HSET', KEYS[3], 'total', total)
for i = 2, 3 do
  if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
end
return {redis.call('ZCARD', KEYS[2]), total}";

pub struct Shared {
    redis: Redis,
    keys: Keys,
    get: Script,
    put: Script,
    max_bytes: u64,
    /// As the last store said.
    held: Arc<(AtomicU64, AtomicU64)>,
}

impl Shared {
    pub fn open(settings: &Settings, address: &Address, keys: Keys) -> Result<Self, String> {
        let redis =
            Redis::open(address, settings.timeout).map_err(|why| format!("cache.store: {why}"))?;
        Ok(Self {
            redis,
            keys,
            get: Script::new(GET),
            put: Script::new(PUT),
            max_bytes: settings.max_bytes,
            held: Arc::default(),
        })
    }

    pub fn server(&self) -> (&Redis, &Keys) {
        (&self.redis, &self.keys)
    }

    /// The answer and its age.
    pub async fn get(&self, key: &Key) -> Result<Option<(Cached, Duration)>, Failure> {
        let mut call = self.get.prepare_invoke();
        call.key(name(key)).key(BY_USE);
        let Some(bytes) = self.run::<Option<Vec<u8>>>(&call).await? else {
            return Ok(None);
        };
        let opened = format::decode(key, &bytes, now_ms(), &self.keys);
        opened.map(Some).map_err(|_| "unreadable")
    }

    pub async fn put(&self, key: &Key, answer: &Cached, ttl: Duration) -> Result<(), Failure> {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        if ttl == 0 {
            return Ok(());
        }
        let bytes = format::encode(key, answer, now_ms(), &self.keys).map_err(|_| "unsealed")?;
        let mut call = self.put.prepare_invoke();
        call.key(name(key)).key(BY_USE).key(SIZES);
        call.arg(bytes).arg(ttl).arg(self.max_bytes);
        let (entries, bytes) = self.run::<(u64, u64)>(&call).await?;
        self.held.0.store(entries, Ordering::Relaxed);
        self.held.1.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    pub fn held(&self) -> (u64, u64) {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        (read(&self.held.0), read(&self.held.1))
    }

    async fn run<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, Failure> {
        self.redis
            .run(|mut connection| async move { call.invoke_async::<T>(&mut connection).await })
            .await
            .map_err(|trouble| trouble.kind())
    }
}

fn name(key: &Key) -> String {
    format!("{PREFIX}{}", hex::encode(key.0))
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
