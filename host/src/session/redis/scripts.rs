//! What is done on the server, each as a whole. `KEYS[1]` is the session, `KEYS[2]` its lease.

use crate::redis::Script;

pub struct Scripts {
    pub begin: Script,
    pub renew: Script,
    pub release: Script,
    pub append: Script,
    pub forget: Script,
    pub replace: Script,
}

/// token, lease ms -> whether it was had, and the session.
const BEGIN: &str = r"
if not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {0, {}} end
return {1, redis.call('HGETALL', KEYS[1])}";

/// token, lease ms; `KEYS[1]` is the lease.
const RENEW: &str = r"
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] and held ~= 'gone:' .. ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

/// token; `KEYS[1]` is the lease.
const RELEASE: &str = r"
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] and held ~= 'gone:' .. ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])";

/// token, number, record, most exchanges, ttl ms, the next number there: `number`, or one more where
/// the last record is replaced.
///
/// A lease that ran out is no reason to refuse while nobody else has written: the number tells, but
/// for a replacement, after which it is the same. The same record at the same number is this very
/// call, sent a second time.
const APPEND: &str = r"
local held, at = redis.call('GET', KEYS[2]), tonumber(ARGV[2])
local expected = tonumber(ARGV[6])
if held == 'gone:' .. ARGV[1] then
  redis.call('DEL', KEYS[2])
  return 'forgotten'
end
if held and held ~= ARGV[1] then return 'taken' end
local next = tonumber(redis.call('HGET', KEYS[1], 'next') or -1)
if next == at + 1 and redis.call('HGET', KEYS[1], ARGV[2]) == ARGV[3] then
  if held then redis.call('DEL', KEYS[2]) end
  return 'kept'
end
if next >= 0 and next ~= expected then return 'taken' end
if next > at and not held then return 'taken' end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3], 'next', string.format('%d', at + 1))
local old = at - tonumber(ARGV[4])
while old >= 0 and redis.call('HDEL', KEYS[1], string.format('%d', old)) == 1 do old = old - 1 end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
if held then redis.call('DEL', KEYS[2]) end
if next < 0 and expected > 0 then return 'anew' end
return 'kept'";

/// Whoever writes learns of it by the lease.
const FORGET: &str = r"
local held = redis.call('GET', KEYS[2])
if held and string.sub(held, 1, 5) ~= 'gone:' then
  redis.call('SET', KEYS[2], 'gone:' .. held, 'KEEPTTL')
end
return redis.call('DEL', KEYS[1])";

/// ttl ms, next number, then numbers and records; `KEYS[1]` is the session.
const REPLACE: &str = r"
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'next', ARGV[2])
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])";

impl Default for Scripts {
    fn default() -> Self {
        Self {
            begin: Script::new(BEGIN),
            renew: Script::new(RENEW),
            release: Script::new(RELEASE),
            append: Script::new(APPEND),
            forget: Script::new(FORGET),
            replace: Script::new(REPLACE),
        }
    }
}
