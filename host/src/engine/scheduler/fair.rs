//! Who is next: shortest remaining prompt first, made fair by what a session and its tenant have
//! used lately and by how long a request has waited.
//!
//! Usage is counted in prompt tokens that had to be computed, as in "Fairness in Serving Large
//! Language Models" (Sheng et al., OSDI 2024), and forgotten by halves.

use std::collections::HashMap;
use std::hash::Hash;

use super::plan::Time;
use crate::types::{SessionKey, TenantId};

/// After this many seconds half of the usage is forgotten.
const HALF_LIFE: f64 = 60.0;
/// Tenants, and sessions, whose usage is remembered.
const REMEMBERED: usize = 1024;
/// Usage beyond this does not push a request further back, so that waiting always wins in the end.
const CAP: f64 = 16_384.0;

#[derive(Clone, Copy, Debug)]
struct Usage {
    tokens: f64,
    at: Time,
}

impl Usage {
    fn now(self, now: Time) -> f64 {
        let age = now.saturating_sub(self.at).as_secs_f64();
        self.tokens * (-age / HALF_LIFE).exp2()
    }
}

/// Whose usage it is. Without a session, only the tenant's counts.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    pub tenant: &'a TenantId,
    pub session: Option<&'a SessionKey>,
}

/// What everybody has used lately.
#[derive(Debug, Default)]
pub struct Ledger {
    tenants: HashMap<TenantId, Usage>,
    sessions: HashMap<SessionKey, Usage>,
}

impl Ledger {
    /// Books `tokens` that were computed for `who`.
    pub fn charge(&mut self, who: Who<'_>, tokens: u32, now: Time) {
        add(&mut self.tenants, who.tenant, tokens, now);
        if let Some(session) = who.session {
            add(&mut self.sessions, session, tokens, now);
        }
    }

    /// The lower, the sooner: tokens still to compute, plus usage, minus `rate` tokens for every
    /// second of waiting.
    pub fn score(&self, who: Who<'_>, remaining: usize, waited: Time, rate: f64, now: Time) -> f64 {
        let used = level(&self.tenants, who.tenant, now)
            + who
                .session
                .map_or(0.0, |session| level(&self.sessions, session, now));
        remaining as f64 + used - waited.as_secs_f64() * rate
    }
}

fn add<K: Hash + Eq + Clone>(all: &mut HashMap<K, Usage>, key: &K, tokens: u32, now: Time) {
    if all.len() >= REMEMBERED && !all.contains_key(key) {
        forget(all, now);
    }
    let tokens = level(all, key, now) + f64::from(tokens);
    all.insert(key.clone(), Usage { tokens, at: now });
}

/// Forgets the half that has used the least. A look at all of them is then shared by as many who come,
/// and a crowd that never comes back takes no memory.
fn forget<K: Hash + Eq>(all: &mut HashMap<K, Usage>, now: Time) {
    let mut used: Vec<f64> = all.values().map(|usage| usage.now(now)).collect();
    let middle = used.len() / 2;
    let (_, &mut median, _) = used.select_nth_unstable_by(middle, f64::total_cmp);
    all.retain(|_, usage| usage.now(now) > median);
}

fn level<K: Hash + Eq>(all: &HashMap<K, Usage>, key: &K, now: Time) -> f64 {
    all.get(key).map_or(0.0, |usage| usage.now(now).min(CAP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SessionId;

    fn who(key: &SessionKey) -> Who<'_> {
        Who {
            tenant: &key.tenant,
            session: Some(key),
        }
    }

    fn key(tenant: &str, session: &str) -> SessionKey {
        SessionKey {
            tenant: TenantId::new(tenant),
            session: SessionId::parse(session).unwrap(),
        }
    }

    #[test]
    fn a_tenant_with_many_sessions_gets_no_larger_share() {
        let mut ledger = Ledger::default();
        let now = Time::from_secs(1);
        for session in ["a", "b", "c"] {
            ledger.charge(who(&key("loud", session)), 500, now);
        }
        let fresh = ledger.score(who(&key("loud", "d")), 50, Time::ZERO, 70.0, now);
        let quiet = ledger.score(who(&key("quiet", "a")), 900, Time::ZERO, 70.0, now);
        assert!(quiet < fresh, "{quiet} {fresh}");
    }

    #[test]
    fn requests_without_a_session_count_for_their_tenant() {
        let mut ledger = Ledger::default();
        let now = Time::from_secs(1);
        let (loud, quiet) = (TenantId::new("loud"), key("quiet", "a"));
        let nameless = Who {
            tenant: &loud,
            session: None,
        };
        ledger.charge(nameless, 2000, now);
        let again = ledger.score(nameless, 50, Time::ZERO, 70.0, now);
        let other = ledger.score(who(&quiet), 900, Time::ZERO, 70.0, now);
        assert!(other < again, "{other} {again}");
    }

    #[test]
    fn waiting_wins_over_any_usage() {
        let mut ledger = Ledger::default();
        ledger.charge(who(&key("t", "heavy")), 1_000_000, Time::ZERO);
        let now = Time::from_secs(600);
        let waited = ledger.score(who(&key("t", "heavy")), 8000, now, 70.0, now);
        let newcomer = ledger.score(who(&key("u", "new")), 1, Time::ZERO, 70.0, now);
        assert!(waited < newcomer);
    }

    #[test]
    fn a_crowd_that_does_not_come_back_is_forgotten_and_who_uses_much_is_not() {
        let mut ledger = Ledger::default();
        let heavy = key("t", "heavy");
        ledger.charge(who(&heavy), 10_000, Time::ZERO);
        for n in 0..20_000 {
            let now = Time::from_millis(n);
            ledger.charge(who(&key("t", &format!("s{n}"))), 30, now);
            assert!(ledger.sessions.len() <= REMEMBERED);
        }
        let now = Time::from_secs(20);
        let score = |key| ledger.score(who(key), 0, Time::ZERO, 70.0, now);
        let more = score(&heavy) - score(&key("t", "new"));
        assert!(more > 5_000.0, "{more}");
    }

    #[test]
    fn usage_is_forgotten_by_halves() {
        let mut ledger = Ledger::default();
        ledger.charge(who(&key("t", "s")), 1000, Time::ZERO);
        let later = ledger.score(who(&key("t", "s")), 0, Time::ZERO, 1.0, Time::from_secs(60));
        assert!(
            (later - 1000.0).abs() < 1.0,
            "half of 1000 for the tenant, half for the session"
        );
    }
}
