//! What a request asks of the answer cache, and under which names: everything that its answer depends
//! on goes into them.

use super::Turn;
use crate::cache::{self, Audience, Basis as CacheBasis, Cached, Draw, Identity, Key};
use crate::policy::{self, CacheKey, Lookup, Prompt, Scope};
use crate::trace::spans;
use crate::types::Seed;

impl Turn {
    /// Looks the question up under the policy's key; `None` for a miss and for no lookup at all.
    /// Called where keys of parts are known, and again with the prompt.
    pub async fn lookup(&mut self, lookup: &Lookup, prompt: Option<&Prompt>) -> Option<Cached> {
        let basis = match (lookup, prompt) {
            (Lookup::Bypass, None) => "none",
            (Lookup::By(key), None) if matches!(key.basis, policy::Basis::Parts(_)) => "parts",
            (Lookup::By(key), Some(_)) if key.basis == policy::Basis::ExactPrompt => "exact",
            _ => return None,
        };
        let cache = &self.gateway.cache;
        let span = spans::cache_lookup(&self.ask.span, cache.store_name(), basis);
        let asked = self.cache_key(lookup, prompt);
        let Some((key, policy)) = asked.filter(|_| !self.store_failed) else {
            spans::cache_result(&span, "bypass");
            self.gateway.metrics.cache(basis, "bypass");
            return None;
        };
        let found = cache.lookup(&key, policy.max_age).await;
        let hit = self.told_store("lookup", &span, found).flatten();
        let result = if hit.is_some() { "hit" } else { "miss" };
        spans::cache_result(&span, result);
        self.gateway.metrics.cache(basis, result);
        hit
    }

    /// Takes down how a use of the answer cache ended. One that failed is this request's last one:
    /// nobody waits twice for a server in trouble.
    pub fn told_store<T>(
        &mut self,
        operation: &'static str,
        span: &tracing::Span,
        done: Result<T, cache::Failure>,
    ) -> Option<T> {
        if self.gateway.cache.shared().is_some() {
            let result = done.as_ref().err().copied().unwrap_or("ok");
            self.gateway.metrics.shared(operation, result);
        }
        done.inspect_err(|kind| {
            spans::failed(span, kind);
            self.store_failed = true;
        })
        .ok()
    }

    /// Whether the server that hosts share failed this request.
    pub fn store_failed(&self) -> bool {
        self.store_failed
    }

    /// The cache key, where the policy wants one and this is the stage at which it is known:
    /// parts before the prompt, the exact prompt after it.
    pub fn cache_key<'a>(
        &self,
        lookup: &'a Lookup,
        prompt: Option<&Prompt>,
    ) -> Option<(Key, &'a CacheKey)> {
        let Lookup::By(policy) = lookup else {
            return None;
        };
        if self.gateway.cache.is_off() || !self.ask.params.repeatable(&self.live.defaults) {
            return None;
        }
        let basis = match (&policy.basis, prompt) {
            (policy::Basis::Parts(parts), None) => CacheBasis::Parts(parts),
            (policy::Basis::ExactPrompt, Some(prompt)) => CacheBasis::Prompt {
                tokens: &prompt.tokens,
                stop: &prompt.stop,
            },
            _ => return None,
        };
        let tenant = &self.ask.tenant;
        let audience = match (policy.scope, &self.ask.session) {
            (Scope::Shared, _) => Audience::Everybody,
            (Scope::Tenant, _) => Audience::Tenant(tenant),
            (Scope::Session, Some(session)) => Audience::Session(tenant, session),
            // Without a session nobody can come back to ask again.
            (Scope::Session, None) => return None,
        };
        Some((self.identity(audience, basis).key(), policy))
    }

    /// Names the run that answers this prompt; `None` where each run differs. What the engine says
    /// depends on the prompt alone: policies see it afterwards, each request's own.
    pub fn flight_key(&self, prompt: &Prompt) -> Option<Key> {
        let basis = CacheBasis::Prompt {
            tokens: &prompt.tokens,
            stop: &prompt.stop,
        };
        let run = || Identity {
            policies: "run",
            attributes: &[],
            streaming: false,
            ..self.identity(Audience::Tenant(&self.ask.tenant), basis)
        };
        let repeatable = self.ask.params.repeatable(&self.live.defaults);
        repeatable.then(|| run().key())
    }

    fn identity<'a>(&'a self, audience: Audience<'a>, basis: CacheBasis<'a>) -> Identity<'a> {
        let seed = self.ask.params.seed.unwrap_or(self.live.defaults.seed);
        let policies = &self.policies;
        // The prompt shows all that trimming and guarding did to it.
        let (by, low_water, draw) = match (basis, seed) {
            (CacheBasis::Prompt { .. }, _) => (
                policies.identity_behind_prompt(),
                None,
                Draw::Seed(self.sampling.seed),
            ),
            (CacheBasis::Parts(_), Seed::Fixed(seed)) => (
                policies.identity(),
                Some(policies.low_water()),
                Draw::Seed(seed),
            ),
            (CacheBasis::Parts(_), _) => (
                policies.identity(),
                Some(policies.low_water()),
                Draw::Derived,
            ),
        };
        let model = self.gateway.engine.model();
        Identity {
            audience,
            model: &model.fingerprint,
            name: &model.name,
            context: model.n_ctx,
            low_water,
            policies: by,
            attributes: &self.ask.attributes,
            streaming: self.ask.streaming,
            sampling: &self.sampling,
            draw: match self.sampling.temperature == 0.0 {
                true => Draw::Greedy,
                false => draw,
            },
            max_tokens: self.max_tokens,
            stop: &self.ask.params.stop,
            basis,
        }
    }
}
