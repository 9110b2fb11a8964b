//! What is done on the server, each as a whole.

use crate::redis::{Script, ScriptInvocation};

pub struct Scripts {
    pub board: Script,
    pub renew: Script,
    pub leave_alone: Script,
    pub release: Script,
    pub say: Script,
    pub look: Script,
}

/// lease, readers' prefix; token, lease ms, presence ms -> who holds the lease. Who comes second is
/// among the readers at once, so that the run does not stop before they read.
const BOARD: &str = r"
local held = redis.call('GET', KEYS[1])
if not held then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return ARGV[1]
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[2] .. held, now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[2] .. held, ARGV[3])
return held";

/// lease, readers; token, lease ms -> how many read; -1 where the lease is lost.
const RENEW: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local t = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', t[1] * 1000 + math.floor(t[2] / 1000))
return redis.call('ZCARD', KEYS[2])";

/// lease, readers, said; token -> 1 where nobody reads: the lease is given back, and nobody can
/// come any more.
const LEAVE_ALONE: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 1 end
local t = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', t[1] * 1000 + math.floor(t[2] / 1000))
if redis.call('ZCARD', KEYS[2]) > 0 then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return 1";

/// lease; token.
const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])";

/// lease, said; token, ttl ms, number of the first piece, pieces -> 1; 0 where the lease is lost.
const SAY: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 4, #ARGV do
  redis.call('XADD', KEYS[2], '*', 'at', string.format('%d', ARGV[3] + i - 4), 'piece', ARGV[i])
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1";

/// lease, readers; the holder's token, the reader's, presence ms; presence 0: it leaves -> whether
/// the lease is still held.
const LOOK: &str = r"
if ARGV[3] == '0' then
  redis.call('ZREM', KEYS[2], ARGV[2])
else
  local t = redis.call('TIME')
  redis.call('ZADD', KEYS[2], t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[3], ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
return 0";

impl Default for Scripts {
    fn default() -> Self {
        Self {
            board: Script::new(BOARD),
            renew: Script::new(RENEW),
            leave_alone: Script::new(LEAVE_ALONE),
            release: Script::new(RELEASE),
            say: Script::new(SAY),
            look: Script::new(LOOK),
        }
    }
}

/// A script about these keys; its arguments follow.
pub fn call<'s>(script: &'s Script, keys: &[&str]) -> ScriptInvocation<'s> {
    let mut call = script.prepare_invoke();
    for key in keys {
        call.key(*key);
    }
    call
}
