//! The names of all span attributes, and the list of those that may leave the process.
//!
//! GenAI names follow the OpenTelemetry GenAI semantic conventions 0.1.0 (on top of the general
//! conventions 1.45.0); what the conventions have no word for is `stent.*`.

/// Schema of the general conventions that the names below follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.45.0";

pub const HTTP_METHOD: &str = "http.request.method";
pub const HTTP_ROUTE: &str = "http.route";
pub const HTTP_STATUS: &str = "http.response.status_code";
pub const ERROR_TYPE: &str = "error.type";

pub const OPERATION: &str = "gen_ai.operation.name";
pub const PROVIDER: &str = "gen_ai.provider.name";
pub const REQUEST_MODEL: &str = "gen_ai.request.model";
pub const REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
pub const REQUEST_SEED: &str = "gen_ai.request.seed";
pub const REQUEST_TEMPERATURE: &str = "gen_ai.request.temperature";
pub const REQUEST_TOP_K: &str = "gen_ai.request.top_k";
pub const REQUEST_TOP_P: &str = "gen_ai.request.top_p";
pub const REQUEST_FREQUENCY_PENALTY: &str = "gen_ai.request.frequency_penalty";
pub const REQUEST_PRESENCE_PENALTY: &str = "gen_ai.request.presence_penalty";
pub const RESPONSE_MODEL: &str = "gen_ai.response.model";
pub const RESPONSE_FINISH: &str = "gen_ai.response.finish_reasons";
pub const USAGE_INPUT: &str = "gen_ai.usage.input_tokens";
pub const USAGE_OUTPUT: &str = "gen_ai.usage.output_tokens";
pub const USAGE_CACHED: &str = "gen_ai.usage.cache_read.input_tokens";
/// What the client said and what the model answered; exported only with content capture on.
pub const INPUT_MESSAGES: &str = "gen_ai.input.messages";
pub const OUTPUT_MESSAGES: &str = "gen_ai.output.messages";

pub const OUTCOME: &str = "stent.outcome";
pub const SLOT: &str = "stent.slot";
pub const SEED_SOURCE: &str = "stent.seed.source";
pub const QUEUE_DEPTH: &str = "stent.queue.depth";
pub const QUEUE_POSITION: &str = "stent.queue.position";
pub const SESSION_STORE: &str = "stent.session.store";
pub const SESSION_TURNS: &str = "stent.session.turns";
pub const CACHE_STORE: &str = "stent.cache.store";
pub const CACHE_KEY: &str = "stent.cache.key";
pub const CACHE_RESULT: &str = "stent.cache.result";
pub const CACHE_BYTES: &str = "stent.cache.bytes";
pub const POLICY_HOOK: &str = "stent.policy.hook";
pub const POLICY_NAME: &str = "stent.policy.name";
pub const POLICY_VERSION: &str = "stent.policy.version";
pub const POLICY_SHA256: &str = "stent.policy.sha256";
pub const POLICY_GENERATION: &str = "stent.policy.generation";
pub const POLICY_OUTCOME: &str = "stent.policy.outcome";
/// What a fault leads to: `open` (the built-in default decides) or `closed` (a refusal).
pub const POLICY_FAIL: &str = "stent.policy.fail";
/// Largest linear memory of the guest, in bytes.
pub const POLICY_MEMORY_PEAK: &str = "stent.policy.memory_peak";
/// Microseconds that the request waited for instance and result.
pub const POLICY_DURATION: &str = "stent.policy.duration_us";
/// True where an earlier decision took the call's place.
pub const POLICY_REMEMBERED: &str = "stent.policy.remembered";
/// Name of the policy's file, without its folder.
pub const POLICY_FILE: &str = "stent.policy.file";
pub const RELOAD_STAGE: &str = "stent.reload.stage";
pub const RELOAD_RESULT: &str = "stent.reload.result";
/// Why a file was rejected, in one sentence.
pub const RELOAD_REASON: &str = "stent.reload.reason";
pub const TOKENS_PROMPT: &str = "stent.tokens.prompt";
pub const TOKENS_REUSED: &str = "stent.tokens.reused";
pub const TOKENS_OUTPUT: &str = "stent.tokens.output";
pub const TOKENS_PER_SECOND: &str = "stent.tokens.per_second";
pub const TOKENS_BEFORE: &str = "stent.trim.tokens_before";
pub const TOKENS_AFTER: &str = "stent.trim.tokens_after";
pub const MESSAGES_DROPPED: &str = "stent.trim.messages_dropped";

/// Attributes that the exporter lets through: numbers, names and digests. Anything that a person
/// wrote or read is missing here, and what is missing here never leaves.
const EXPORTED: &[&str] = &[
    HTTP_METHOD,
    HTTP_ROUTE,
    HTTP_STATUS,
    ERROR_TYPE,
    OPERATION,
    PROVIDER,
    REQUEST_MODEL,
    REQUEST_MAX_TOKENS,
    REQUEST_SEED,
    REQUEST_TEMPERATURE,
    REQUEST_TOP_K,
    REQUEST_TOP_P,
    REQUEST_FREQUENCY_PENALTY,
    REQUEST_PRESENCE_PENALTY,
    RESPONSE_MODEL,
    RESPONSE_FINISH,
    USAGE_INPUT,
    USAGE_OUTPUT,
    USAGE_CACHED,
    OUTCOME,
    SLOT,
    SEED_SOURCE,
    QUEUE_DEPTH,
    QUEUE_POSITION,
    SESSION_STORE,
    SESSION_TURNS,
    CACHE_STORE,
    CACHE_KEY,
    CACHE_RESULT,
    CACHE_BYTES,
    POLICY_HOOK,
    POLICY_NAME,
    POLICY_VERSION,
    POLICY_SHA256,
    POLICY_GENERATION,
    POLICY_OUTCOME,
    POLICY_FAIL,
    POLICY_MEMORY_PEAK,
    POLICY_DURATION,
    POLICY_REMEMBERED,
    POLICY_FILE,
    RELOAD_STAGE,
    RELOAD_RESULT,
    RELOAD_REASON,
    TOKENS_PROMPT,
    TOKENS_REUSED,
    TOKENS_OUTPUT,
    TOKENS_PER_SECOND,
    TOKENS_BEFORE,
    TOKENS_AFTER,
    MESSAGES_DROPPED,
];

/// Whether an attribute may be exported. `content`: content capture is switched on.
pub fn exported(key: &str, content: bool) -> bool {
    EXPORTED.contains(&key) || (content && is_content(key))
}

/// Whether an attribute holds what people ask or what the model answers.
pub fn is_content(key: &str) -> bool {
    [INPUT_MESSAGES, OUTPUT_MESSAGES].contains(&key)
}
