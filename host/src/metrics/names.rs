//! Under which name, and with which words, Prometheus finds each metric.

use std::sync::Arc;

use prometheus_client::registry::Unit;

use super::Metrics;

impl Metrics {
    pub(super) fn register(&mut self) {
        let r = &mut self.registry;
        let genai = r.sub_registry_with_prefix("gen_ai_server");
        genai.register_with_unit(
            "request_duration",
            "From the request's head until the last part of its answer was there to be sent",
            Unit::Seconds,
            self.duration.clone(),
        );
        genai.register_with_unit(
            "time_to_first_token",
            "From the request's head to the first token of the answer",
            Unit::Seconds,
            self.first_token.clone(),
        );
        genai.register_with_unit(
            "time_per_output_token",
            "Decoding time for each token after the first",
            Unit::Seconds,
            self.per_token.clone(),
        );
        let r = r.sub_registry_with_prefix("stent");
        r.register(
            "requests",
            "Requests by route and outcome",
            self.requests.clone(),
        );
        r.register_with_unit(
            "gateway_overhead",
            "Request time that was not spent waiting for the engine",
            Unit::Seconds,
            self.overhead.clone(),
        );
        r.register_with_unit(
            "queue_wait",
            "From the engine's acceptance of a job until a slot took it",
            Unit::Seconds,
            self.queue_wait.clone(),
        );
        r.register(
            "tokens_prefilled",
            "Prompt tokens that were computed",
            self.prefilled.clone(),
        );
        r.register(
            "tokens_reused",
            "Prompt tokens found in the KV cache",
            self.reused.clone(),
        );
        r.register(
            "tokens_generated",
            "Tokens drawn for answers",
            self.generated.clone(),
        );
        r.register(
            "cache",
            "Lookups of the answer cache by their result",
            self.cache.clone(),
        );
        r.register_with_unit(
            "policy_call_duration",
            "One call of a policy's hook",
            Unit::Seconds,
            self.policy_duration.clone(),
        );
        r.register(
            "policy_faults",
            "Faults of live policies by their kind",
            self.policy_faults.clone(),
        );
        r.register(
            "policy_remembered",
            "Earlier decisions of policies that took a call's place",
            self.policy_remembered.clone(),
        );
        r.register(
            "policy_cold_calls",
            "Calls of policies that found no warm instance and waited for one to be made",
            self.policy_cold.clone(),
        );
        r.register(
            "filter_stops",
            "Answers that an output filter ended, by its own word for it",
            self.filter_stops.clone(),
        );
        r.register(
            "policy_shadow_answers",
            "Answers of shadows beside those of the live policies",
            self.shadows.clone(),
        );
        r.register(
            "policy_reloads",
            "Reloads of the policies folder by their result, the stage that failed, and hook",
            self.reloads.clone(),
        );
        r.register(
            "prefix_breaks",
            "Next prompts that do not go on from the last one, by the digest of the policy that moved their beginning",
            self.prefix_breaks.clone(),
        );
        r.register(
            "session_store",
            "Loads of histories and appends of exchanges by their result",
            self.sessions.clone(),
        );
        r.register(
            "shared_cache",
            "Uses of the answers and runs that hosts share (cache.store in Redis) by their result",
            self.shared.clone(),
        );
        self.registry
            .register_collector(Box::new(Arc::clone(&self.readers)));
    }
}
