//! Label sets. Their values are words of this program, except for [`Bounded`] names.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;

use crate::trace::Outcome;

/// How many policy names (and filters' reasons) keep a label value of their own; further ones share
/// `other`, so that an operator who replaces a policy a thousand times does not fill Prometheus.
pub const MAX_NAMES: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct GenAi {
    gen_ai_operation_name: &'static str,
    gen_ai_provider_name: &'static str,
    gen_ai_request_model: Arc<str>,
    error_type: &'static str,
}

impl GenAi {
    pub(super) fn new((provider, model): (&'static str, &Arc<str>), outcome: Outcome) -> Self {
        // An empty label is an absent one: the conventions set it on failed requests only.
        let error_type = match outcome {
            Outcome::Ok | Outcome::Cached | Outcome::Coalesced | Outcome::Blocked => "",
            Outcome::Overloaded | Outcome::Cancelled | Outcome::Error => outcome.as_str(),
        };
        Self {
            gen_ai_operation_name: "chat",
            gen_ai_provider_name: provider,
            gen_ai_request_model: Arc::clone(model),
            error_type,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) route: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabel {
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HookLabel {
    pub(super) hook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReloadLabels {
    pub(super) result: &'static str,
    /// Empty labels are absent ones: nothing failed, or no hook was known.
    pub(super) stage: &'static str,
    pub(super) hook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BreakLabels {
    pub(super) hook: &'static str,
    /// First 12 hex digits of the policy's sha256.
    pub(super) policy: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CacheLabels {
    pub(super) key: &'static str,
    pub(super) result: &'static str,
}

/// A use of a server that hosts share, for sessions or for answers and runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SessionLabels {
    pub(super) operation: &'static str,
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PolicyLabels {
    pub(super) hook: &'static str,
    pub(super) policy: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FaultLabels {
    pub(super) hook: &'static str,
    pub(super) policy: Arc<str>,
    pub(super) kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ShadowLabels {
    pub(super) hook: &'static str,
    pub(super) policy: Arc<str>,
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StopLabels {
    pub(super) policy: Arc<str>,
    pub(super) reason: Arc<str>,
}

/// The exemplar's label: 32 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TraceLabel {
    trace_id: String,
}

impl TraceLabel {
    pub(super) fn new(trace_id: &str) -> Self {
        Self {
            trace_id: trace_id.to_owned(),
        }
    }
}

/// Gives the first [`MAX_NAMES`] names a label value of their own.
#[derive(Debug, Default)]
pub(super) struct Bounded(Mutex<BTreeSet<Arc<str>>>);

impl Bounded {
    pub(super) fn label(&self, name: &str) -> Arc<str> {
        // A set of names is whole even if another thread panicked while it held the lock.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(label) = known.get(name) {
            return Arc::clone(label);
        }
        if known.len() >= MAX_NAMES {
            return "other".into();
        }
        let label: Arc<str> = name.into();
        known.insert(Arc::clone(&label));
        label
    }
}
