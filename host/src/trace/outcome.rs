//! How requests end.

/// How a request ended, as spans, metrics and logs name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Ok,
    /// Replayed from the cache.
    Cached,
    /// Answered from another request's running generation.
    Coalesced,
    /// Refused by a policy.
    Blocked,
    /// Refused for want of a place: 429 or 503.
    Overloaded,
    /// The client left.
    Cancelled,
    Error,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cached => "cached",
            Self::Coalesced => "coalesced",
            Self::Blocked => "blocked",
            Self::Overloaded => "overloaded",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
        }
    }
}
