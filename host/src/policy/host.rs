//! What a guest may ask of the host: the request at hand, messages, token counts, a log line.
//! Nothing else is linked; there is no clock, no randomness, no file and no network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::{Resource, ResourceTable};

use super::bindings::v0_1::stent::policy::{host, request, types as wit};
use super::fault::{Raised, RunError};
use super::quoting::Heard;
use super::told::Lines;
use super::types::{Facts, Scope};
use super::words::head;
use crate::types::{Message, Role, Tokenizer};

/// Longest log line and longest text whose tokens are counted in one go, in bytes.
const LOG_BYTES: usize = 1024;
const COUNT_BYTES: usize = 256 << 10;
/// How many instances of a policy may write all their lines within a few seconds.
const AT_ONCE: u32 = 10;

/// One instance's side of the host.
pub(crate) struct HostState {
    pub(super) table: ResourceTable,
    pub(super) limiter: Limiter,
    pub(super) clock: Clock,
    /// It read the time or wrote a line: another call might come out differently.
    pub(super) varied: bool,
    /// What it has read of people's words: its own must not repeat them.
    pub(super) heard: Heard,
    tokenizer: Arc<dyn Tokenizer>,
    /// The policy's name for log lines.
    label: Arc<str>,
    log_left: u32,
    log_lines: u32,
    /// What all instances of the policy write together.
    lines: Arc<Lines>,
}

pub struct RequestHandle {
    pub facts: Arc<Facts>,
    pub granted: Scope,
}
pub struct TranscriptHandle(pub Vec<Message>);
pub struct AnswerHandle(pub Arc<str>);

/// Counts the time that a guest really ran.
///
/// The engine's epoch rises every millisecond; at each rise that a running guest meets it hands
/// the thread back and one tick is charged. Time spent waiting for the processor is not charged,
/// so a busy machine does not turn into faults; time spent inside the host on its behalf is.
pub(super) struct Clock {
    pub ran: Duration,
    pub limit: Duration,
}

/// Counts all memories of an instance together: a component may have several.
pub(super) struct Limiter {
    limit: usize,
    used: usize,
    pub peak: usize,
}

impl HostState {
    pub(super) fn new(
        tokenizer: Arc<dyn Tokenizer>,
        label: Arc<str>,
        lines: Arc<Lines>,
        limits: &super::settings::Limits,
    ) -> Self {
        let mut table = ResourceTable::new();
        // One call needs three handles; a filter keeps one.
        table.set_max_capacity(64);
        Self {
            table,
            limiter: Limiter {
                limit: usize::try_from(limits.memory).unwrap_or(usize::MAX),
                used: 0,
                peak: 0,
            },
            clock: Clock {
                ran: Duration::ZERO,
                limit: limits.probe,
            },
            varied: false,
            heard: Heard::default(),
            tokenizer,
            label,
            log_left: limits.log_lines,
            log_lines: limits.log_lines,
            lines,
        }
    }

    /// Starts the allowance of one call.
    pub(super) fn allow(&mut self, limit: Duration) {
        self.clock = Clock {
            ran: Duration::ZERO,
            limit,
        };
    }

    /// A line for the operator, cut to a bearable length; past the limit it is only counted.
    fn line(&mut self, level: host::Level, message: &str) {
        self.varied = true;
        let Some(left) = self.log_left.checked_sub(1) else {
            return;
        };
        self.log_left = left;
        let together = self.log_lines.saturating_mul(AT_ONCE);
        let Some(unsaid) = self.lines.one(Instant::now(), together) else {
            return;
        };
        let start = Instant::now();
        let text = self.heard.told(message, LOG_BYTES);
        // Comparing takes a millisecond where it has read much: its own time.
        let _ = self.clock.charge(start.elapsed());
        let policy = &*self.label;
        if unsaid > 0 {
            tracing::warn!(target: "stent::policy", policy,
                "{unsaid} lines of {policy} were dropped: more than {together} came within seconds");
        }
        match level {
            host::Level::Debug => tracing::debug!(target: "stent::policy", policy, "{text}"),
            host::Level::Info => tracing::info!(target: "stent::policy", policy, "{text}"),
            host::Level::Warn => tracing::warn!(target: "stent::policy", policy, "{text}"),
            host::Level::Error => tracing::error!(target: "stent::policy", policy, "{text}"),
        }
        if left == 0 {
            tracing::warn!(target: "stent::policy", policy, 
                "policies.limits.log_lines = {limit} reached, further lines are dropped",
                limit = self.log_lines);
        }
    }
}

impl Clock {
    pub(super) fn charge(&mut self, ran: Duration) -> Result<(), Raised> {
        self.ran += ran;
        match self.ran < self.limit {
            true => Ok(()),
            false => Err(Raised(RunError::Deadline { limit: self.limit })),
        }
    }
}

impl wasmtime::ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|most| desired > most) {
            // The memory's own bound, which its author knows of.
            return Ok(false);
        }
        let (asked, limit) = (self.used.saturating_sub(current) + desired, self.limit);
        if asked > limit {
            // An error instead of a plain "no": the guest would abort with a trap whose text
            // says nothing about memory.
            return Err(Raised(RunError::Memory { asked, limit }).into());
        }
        self.used = asked;
        self.peak = self.peak.max(asked);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= super::runtime::TABLE_ELEMENTS)
    }
}

impl host::Host for HostState {
    fn log(&mut self, level: host::Level, message: String) -> wasmtime::Result<()> {
        self.line(level, &message);
        Ok(())
    }

    fn count_tokens(&mut self, text: String) -> wasmtime::Result<u32> {
        if text.len() > COUNT_BYTES {
            return Err(Raised(RunError::BadResult(format!(
                "count-tokens was given {} bytes, at most {COUNT_BYTES} are counted",
                text.len()
            )))
            .into());
        }
        let start = Instant::now();
        let count = self.tokenizer.count(&text);
        self.clock.charge(start.elapsed())?;
        Ok(count)
    }
}

impl wit::Host for HostState {}
impl request::Host for HostState {}

impl request::HostRequest for HostState {
    fn model(&mut self, it: Resource<RequestHandle>) -> wasmtime::Result<String> {
        Ok(self.table.get(&it)?.facts.model.to_string())
    }
    fn now_ms(&mut self, it: Resource<RequestHandle>) -> wasmtime::Result<u64> {
        self.varied = true;
        Ok(self.table.get(&it)?.facts.now_ms)
    }
    fn limits(&mut self, it: Resource<RequestHandle>) -> wasmtime::Result<wit::Limits> {
        let facts = &self.table.get(&it)?.facts;
        Ok(wit::Limits {
            context: facts.context,
            reserved_output: facts.reserved_output,
        })
    }
    fn streaming(&mut self, it: Resource<RequestHandle>) -> wasmtime::Result<bool> {
        Ok(self.table.get(&it)?.facts.streaming)
    }
    fn attribute(
        &mut self,
        it: Resource<RequestHandle>,
        name: String,
    ) -> wasmtime::Result<Option<String>> {
        let attributes = &self.table.get(&it)?.facts.attributes;
        let found = attributes.iter().find(|(key, _)| *key == name);
        Ok(found.map(|(_, value)| {
            // A trusted header may name somebody.
            self.heard.attribute(value);
            value.clone()
        }))
    }
    fn granted(&mut self, it: Resource<RequestHandle>) -> wasmtime::Result<wit::Scope> {
        Ok(self.table.get(&it)?.granted.into())
    }
    fn drop(&mut self, it: Resource<RequestHandle>) -> wasmtime::Result<()> {
        self.table.delete(it)?;
        Ok(())
    }
}

impl request::HostTranscript for HostState {
    fn messages(
        &mut self,
        it: Resource<TranscriptHandle>,
    ) -> wasmtime::Result<Vec<request::Message>> {
        Ok(self
            .table
            .get(&it)?
            .0
            .iter()
            .map(request::Message::from)
            .collect())
    }
    fn text(
        &mut self,
        it: Resource<TranscriptHandle>,
        id: u64,
    ) -> wasmtime::Result<Option<String>> {
        let found = self.table.get(&it)?.find(id);
        Ok(found.map(|message| {
            self.heard.text(&message.text);
            message.text.to_string()
        }))
    }
    fn head(
        &mut self,
        it: Resource<TranscriptHandle>,
        id: u64,
        max_bytes: u32,
    ) -> wasmtime::Result<Option<String>> {
        let found = self.table.get(&it)?.find(id);
        Ok(found.map(|message| {
            self.heard.text(&message.text);
            head(&message.text, max_bytes as usize).to_owned()
        }))
    }
    fn drop(&mut self, it: Resource<TranscriptHandle>) -> wasmtime::Result<()> {
        self.table.delete(it)?;
        Ok(())
    }
}

impl request::HostAnswer for HostState {
    fn bytes(&mut self, it: Resource<AnswerHandle>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&it)?.0.len() as u64)
    }
    fn head(&mut self, it: Resource<AnswerHandle>, max_bytes: u32) -> wasmtime::Result<String> {
        let answer = &self.table.get(&it)?.0;
        self.heard.text(answer);
        Ok(head(answer, max_bytes as usize).to_owned())
    }
    fn drop(&mut self, it: Resource<AnswerHandle>) -> wasmtime::Result<()> {
        self.table.delete(it)?;
        Ok(())
    }
}

impl TranscriptHandle {
    fn find(&self, id: u64) -> Option<&Message> {
        self.0.iter().find(|m| m.id == id)
    }
}

impl From<&Message> for request::Message {
    fn from(m: &Message) -> Self {
        Self {
            id: m.id,
            role: match m.role {
                Role::System => wit::Role::System,
                Role::User => wit::Role::User,
                Role::Assistant => wit::Role::Assistant,
                Role::Tool => wit::Role::Tool,
            },
            tokens: super::budget::tokens(m),
            pinned: m.pinned,
            exchange: m.exchange,
        }
    }
}

impl From<Scope> for wit::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Session => wit::Scope::Session,
            Scope::Tenant => wit::Scope::Tenant,
            Scope::Shared => wit::Scope::Shared,
        }
    }
}

impl From<wit::Scope> for Scope {
    fn from(scope: wit::Scope) -> Self {
        match scope {
            wit::Scope::Session => Scope::Session,
            wit::Scope::Tenant => Scope::Tenant,
            wit::Scope::Shared => Scope::Shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::ResourceLimiter;

    use super::*;

    #[test]
    fn all_memories_of_an_instance_count_together() -> wasmtime::Result<()> {
        let mut limiter = Limiter {
            limit: 100,
            used: 0,
            peak: 0,
        };
        assert!(limiter.memory_growing(0, 60, None)?);
        assert!(limiter.memory_growing(0, 30, None)?);
        assert!(limiter.memory_growing(60, 70, None)?);
        assert_eq!(limiter.peak, 100);
        let refused = limiter.memory_growing(30, 31, None);
        let fault = refused.unwrap_err().downcast::<Raised>()?.0;
        assert_eq!(
            fault,
            RunError::Memory {
                asked: 101,
                limit: 100
            }
        );
        // What its author bounds is a plain "no".
        assert!(!limiter.memory_growing(30, 31, Some(30))?);
        Ok(())
    }
}
