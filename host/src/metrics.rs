//! What Prometheus scrapes: counters and histograms that the stages feed, and gauges that are
//! read at scrape time.
//!
//! Cardinality is bounded: labels are words of this program, or names from the operator's
//! policies folder, of which the first [`MAX_NAMES`] are told apart. No session, tenant or text
//! of a client is ever a label.

mod costs;
mod labels;
mod names;
mod process;
mod readings;
mod recent;
mod servers;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use crate::trace::Finished;
pub use costs::{Cost, Costs};
pub use labels::MAX_NAMES;
use labels::{
    Bounded, BreakLabels, CacheLabels, FaultLabels, GenAi, HookLabel, OutcomeLabel, PolicyLabels,
    ReloadLabels, RequestLabels, SessionLabels, ShadowLabels, StopLabels, TraceLabel,
};
pub use process::Process;
use readings::Readers;
pub use readings::Readings;
pub use recent::FirstWords;
use recent::Recent;
pub use servers::Server;

/// `Content-Type` of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

// The conventions' bucket boundaries, in seconds (GenAI metrics, server).
const DURATION: [f64; 14] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];
const FIRST_TOKEN: [f64; 16] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
const PER_TOKEN: [f64; 13] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
];
/// From a gateway that costs nothing (50 us) to one that is in the way.
const OVERHEAD: [f64; 12] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5,
];
const WAIT: [f64; 10] = [0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

type Exemplified<L> =
    Family<L, HistogramWithExemplars<TraceLabel>, fn() -> HistogramWithExemplars<TraceLabel>>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of the process. Cloning handles is not needed: share it in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    readers: Arc<Readers>,
    provider: &'static str,
    model: Arc<str>,
    duration: Exemplified<GenAi>,
    first_token: Exemplified<GenAi>,
    per_token: Exemplified<GenAi>,
    requests: Family<RequestLabels, Counter>,
    overhead: Exemplified<OutcomeLabel>,
    queue_wait: Histogram,
    prefilled: Counter,
    reused: Counter,
    generated: Counter,
    cache: Family<CacheLabels, Counter>,
    policy_duration: Histograms<PolicyLabels>,
    policy_faults: Family<FaultLabels, Counter>,
    policy_remembered: Family<HookLabel, Counter>,
    policy_cold: Family<HookLabel, Counter>,
    filter_stops: Family<StopLabels, Counter>,
    shadows: Family<ShadowLabels, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    sessions: Family<SessionLabels, Counter>,
    shared: Family<SessionLabels, Counter>,
    prefix_breaks: Family<BreakLabels, Counter>,
    digests: Bounded,
    /// What the policies that serve now cost: exact, and not scraped.
    pub costs: Costs,
    policies: Bounded,
    reasons: Bounded,
    recent: Recent,
}

impl Metrics {
    /// Labels of the GenAI metrics: who does the inference, as on spans, and the model's name.
    pub fn new(provider: &'static str, model: &str) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            readers: Arc::default(),
            provider,
            model: model.into(),
            duration: Family::new_with_constructor(|| exemplified(&DURATION)),
            first_token: Family::new_with_constructor(|| exemplified(&FIRST_TOKEN)),
            per_token: Family::new_with_constructor(|| exemplified(&PER_TOKEN)),
            requests: Family::default(),
            overhead: Family::new_with_constructor(|| exemplified(&OVERHEAD)),
            queue_wait: Histogram::new(WAIT),
            prefilled: Counter::default(),
            reused: Counter::default(),
            generated: Counter::default(),
            cache: Family::default(),
            policy_duration: Family::new_with_constructor(|| Histogram::new(OVERHEAD)),
            policy_faults: Family::default(),
            policy_remembered: Family::default(),
            policy_cold: Family::default(),
            filter_stops: Family::default(),
            shadows: Family::default(),
            reloads: Family::default(),
            sessions: Family::default(),
            shared: Family::default(),
            prefix_breaks: Family::default(),
            digests: Bounded::default(),
            costs: Costs::default(),
            policies: Bounded::default(),
            reasons: Bounded::default(),
            recent: Recent::default(),
        };
        metrics.register();
        metrics
    }

    /// Records a request's end; once per request.
    pub fn request_finished(&self, request: &Finished<'_>) {
        let trace = || request.trace_id.map(TraceLabel::new);
        let observe = |histogram: HistogramWithExemplars<TraceLabel>, value: Duration| {
            histogram.observe(value.as_secs_f64(), trace(), None);
        };
        let genai = GenAi::new((self.provider, &self.model), request.outcome);
        observe(self.duration.get_or_create_owned(&genai), request.elapsed);
        if let Some(ttft) = request.ttft {
            observe(self.first_token.get_or_create_owned(&genai), ttft);
            self.recent.add(ttft);
        }
        // The first token comes out of the prefill: the time of decoding is that of the others.
        if let (Some(decode), Some(others @ 1..)) =
            (request.decode, request.output_tokens.checked_sub(1))
        {
            observe(self.per_token.get_or_create_owned(&genai), decode / others);
        }
        let outcome = request.outcome.as_str();
        let overhead = request
            .elapsed
            .saturating_sub(request.engine.unwrap_or_default());
        observe(
            self.overhead.get_or_create_owned(&OutcomeLabel { outcome }),
            overhead,
        );
        self.requests
            .get_or_create_owned(&RequestLabels {
                route: request.route,
                outcome,
            })
            .inc();
    }

    /// Records a run of the engine, which several requests may share: it waited for its slot,
    /// `reused` of its `prompt` tokens needed no computing, and `output` tokens were drawn.
    pub fn run_finished(&self, waited: Duration, prompt: u32, reused: u32, output: u32) {
        self.queue_wait.observe(waited.as_secs_f64());
        self.prefilled
            .inc_by(u64::from(prompt.saturating_sub(reused)));
        self.reused.inc_by(u64::from(reused));
        self.generated.inc_by(u64::from(output));
    }

    /// `key`: `parts`, `exact` or `none`; `result`: `hit`, `miss`, `bypass` or `coalesced`.
    pub fn cache(&self, key: &'static str, result: &'static str) {
        self.cache
            .get_or_create_owned(&CacheLabels { key, result })
            .inc();
    }

    /// A use of the session store; `operation`: `load` or `append`; `result`: `ok`, `local` where this
    /// host alone remembers, `anew` or `forgotten`, or the kind of error.
    pub fn session(&self, operation: &'static str, result: &'static str) {
        let labels = SessionLabels { operation, result };
        self.sessions.get_or_create_owned(&labels).inc();
    }

    /// A use of the server that hosts share answers and runs on; `operation`: `lookup` or `store` of an
    /// answer, `board`, `lead` or `follow` of a run; `result`: what came of it, or the kind of error.
    pub fn shared(&self, operation: &'static str, result: &'static str) {
        let labels = SessionLabels { operation, result };
        self.shared.get_or_create_owned(&labels).inc();
    }

    /// One policy call of a request, whatever came of it.
    pub fn policy_call(&self, hook: &'static str, name: &str, took: Duration) {
        let policy = self.policies.label(name);
        self.policy_duration
            .get_or_create_owned(&PolicyLabels { hook, policy })
            .observe(took.as_secs_f64());
    }

    /// A policy's earlier decision took a call's place.
    pub fn policy_remembered(&self, hook: &'static str) {
        self.policy_remembered
            .get_or_create_owned(&HookLabel { hook })
            .inc();
    }

    /// A call of a live policy found no warm instance.
    pub fn policy_cold(&self, hook: &'static str) {
        self.policy_cold
            .get_or_create_owned(&HookLabel { hook })
            .inc();
    }

    /// A live policy's fault, in a call or for want of an instance.
    pub fn policy_fault(&self, hook: &'static str, name: &str, kind: &'static str) {
        let policy = self.policies.label(name);
        self.policy_faults
            .get_or_create_owned(&FaultLabels { hook, policy, kind })
            .inc();
    }

    /// An output filter ended an answer, for the reason that it names in a word.
    pub fn filter_stop(&self, name: &str, reason: &str) {
        let (policy, reason) = (self.policies.label(name), self.reasons.label(reason));
        self.filter_stops
            .get_or_create_owned(&StopLabels { policy, reason })
            .inc();
    }

    /// `result`: `same` or `different`, `failed` or `skipped`.
    pub fn shadow(&self, hook: &'static str, name: &str, result: &'static str) {
        let policy = self.policies.label(name);
        let labels = ShadowLabels {
            hook,
            policy,
            result,
        };
        self.shadows.get_or_create_owned(&labels).inc();
    }

    /// `result`: `swapped`, `rejected`, `removed`, `rolled-back` or `promoted`; `stage`: the one
    /// that failed, if any.
    pub fn reload(&self, result: &'static str, stage: &'static str, hook: &'static str) {
        let labels = ReloadLabels {
            result,
            stage,
            hook,
        };
        self.reloads.get_or_create_owned(&labels).inc();
    }

    /// A session's next prompt begins otherwise than its last one: what was computed is lost.
    /// `digest`: of the policy that decided so, in hex.
    pub fn prefix_break(&self, hook: &'static str, digest: &str) {
        let policy = self.digests.label(digest.get(..12).unwrap_or(digest));
        self.prefix_breaks
            .get_or_create_owned(&BreakLabels { hook, policy })
            .inc();
    }

    /// Adds a reader that fills in its fields of [`Readings`] at every scrape. It must not wait.
    pub fn on_scrape(&self, reader: impl Fn(&mut Readings) + Send + Sync + 'static) {
        self.readers.add(Box::new(reader));
    }

    /// What the readers say now.
    pub fn readings(&self) -> Readings {
        self.readers.read()
    }

    /// How long people waited lately; `None` where nobody asked.
    pub fn first_words(&self) -> Option<FirstWords> {
        self.recent.first_words()
    }

    /// The whole exposition, in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::with_capacity(16 << 10);
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn exemplified(buckets: &[f64]) -> HistogramWithExemplars<TraceLabel> {
    HistogramWithExemplars::new(buckets.iter().copied())
}
