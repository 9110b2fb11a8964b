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

/// What everybody has used lately.
#[derive(Debug, Default)]
pub struct Ledger {
    tenants: HashMap<TenantId, Usage>,
    sessions: HashMap<SessionKey, Usage>,
}

impl Ledger {
    /// Books `tokens` that were computed for `key`.
    pub fn charge(&mut self, key: &SessionKey, tokens: u32, now: Time) {
        add(&mut self.tenants, &key.tenant, tokens, now);
        add(&mut self.sessions, key, tokens, now);
    }

    /// The lower, the sooner: tokens still to compute, plus usage, minus `rate` tokens for every
    /// second of waiting.
    pub fn score(
        &self,
        who: Option<&SessionKey>,
        remaining: usize,
        waited: Time,
        rate: f64,
        now: Time,
    ) -> f64 {
        let used = who.map_or(0.0, |key| {
            level(&self.tenants, &key.tenant, now) + level(&self.sessions, key, now)
        });
        remaining as f64 + used - waited.as_secs_f64() * rate
    }
}

fn add<K: Hash + Eq + Clone>(all: &mut HashMap<K, Usage>, key: &K, tokens: u32, now: Time) {
    // Who has used next to nothing need not be remembered.
    if all.len() > 1024 && !all.contains_key(key) {
        all.retain(|_, usage| usage.now(now) >= 1.0);
    }
    let tokens = level(all, key, now) + f64::from(tokens);
    all.insert(key.clone(), Usage { tokens, at: now });
}

fn level<K: Hash + Eq>(all: &HashMap<K, Usage>, key: &K, now: Time) -> f64 {
    all.get(key).map_or(0.0, |usage| usage.now(now).min(CAP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SessionId;

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
            ledger.charge(&key("loud", session), 500, now);
        }
        let fresh = ledger.score(Some(&key("loud", "d")), 50, Time::ZERO, 70.0, now);
        let quiet = ledger.score(Some(&key("quiet", "a")), 900, Time::ZERO, 70.0, now);
        assert!(quiet < fresh, "{quiet} {fresh}");
    }

    #[test]
    fn waiting_wins_over_any_usage() {
        let mut ledger = Ledger::default();
        ledger.charge(&key("t", "heavy"), 1_000_000, Time::ZERO);
        let now = Time::from_secs(600);
        let waited = ledger.score(Some(&key("t", "heavy")), 8000, now, 70.0, now);
        let newcomer = ledger.score(Some(&key("u", "new")), 1, Time::ZERO, 70.0, now);
        assert!(waited < newcomer);
    }

    #[test]
    fn usage_is_forgotten_by_halves() {
        let mut ledger = Ledger::default();
        ledger.charge(&key("t", "s"), 1000, Time::ZERO);
        let later = ledger.score(
            Some(&key("t", "s")),
            0,
            Time::ZERO,
            1.0,
            Time::from_secs(60),
        );
        assert!(
            (later - 1000.0).abs() < 1.0,
            "half of 1000 for the tenant, half for the session"
        );
    }
}
