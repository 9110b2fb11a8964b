//! Starts a run in this process's engine, and takes down what it says.

use std::sync::{Arc, Weak};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::DropGuard;
use tracing::Span;

use super::flight::Log;
use super::seam::Seam;
use crate::admission::Admission;
use crate::chat::Gateway;
use crate::chat::turn::Turn;
use crate::engine::{EngineError, Event, Job, Running};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::policy::{Prompt, Trimmed};
use crate::trace::spans::{self, Held};
use crate::types::SlotPermit;

/// The work that a request asks for, without a span.
pub fn job(turn: &Turn, trimmed: &Trimmed, prompt: &Prompt) -> Job {
    Job {
        tenant: turn.ask.tenant.clone(),
        session: turn.key(),
        prompt: prompt.tokens.as_slice().into(),
        head: u32::try_from(prompt.head).unwrap_or(0),
        messages: turn.harmless(trimmed),
        sampling: turn.sampling.clone(),
        max_tokens: turn.max_tokens,
        stop: prompt
            .stop
            .iter()
            .chain(&turn.ask.params.stop)
            .cloned()
            .collect(),
        span: Span::none(),
    }
}

/// Asks for a slot.
///
/// # Errors
/// [`Error::Overloaded`] when no permit is left.
pub fn admit(admission: &Admission, parent: &Span) -> Result<SlotPermit, Error> {
    let depth = admission.taken();
    let span = spans::admission(parent, depth);
    match admission.enter() {
        Ok(permit) => {
            spans::position(&span, admission.place(depth));
            Ok(permit)
        }
        Err(error) => {
            spans::failed(&span, error.class().2);
            Err(error)
        }
    }
}

/// A run's span, and what stops it.
pub struct Launched {
    pub chat: Span,
    pub cancel: DropGuard,
}

/// Hands the job to the engine; what it says goes into the log, behind what `seam` says was said
/// before.
pub fn launch(
    gateway: &Gateway,
    (parent, seed_source): (&Span, &'static str),
    (mut job, permit): (Job, SlotPermit),
    log: &Arc<Log>,
    seam: Seam,
) -> Launched {
    let engine = &gateway.engine;
    let (provider, model) = (engine.provider(), &engine.model().name);
    let chat = spans::chat_by(provider, parent, model, &job.sampling, job.max_tokens);
    spans::seed_source(&chat, seed_source);
    job.span = chat.clone();
    let Running { events, cancel } = engine.submit(job, permit);
    let told = Told {
        chat: Some(Held::new(chat.clone())),
        metrics: Arc::clone(&gateway.metrics),
    };
    let log = Arc::downgrade(log);
    gateway.answers.spawn(forward(events, log, told, seam));
    Launched { chat, cancel }
}

/// Where a run's end is told: it may be after the leader has left.
struct Told {
    chat: Option<Held>,
    metrics: Arc<Metrics>,
}

impl Told {
    /// The span ends before the run's last event is seen: a trace is whole when its answer is.
    fn hear(&mut self, event: Option<&Event>) {
        let last = matches!(event, Some(Event::Finished(_) | Event::Failed(_)) | None);
        if let (Some(Event::Started { slot, .. }), Some(chat)) = (event, &self.chat) {
            spans::slot(chat, *slot);
        }
        if !last {
            return;
        }
        let Some(chat) = self.chat.take() else { return };
        let Some(Event::Finished(o)) = event else {
            return spans::failed(&chat, "engine");
        };
        let (prompt, cached, output) = (o.prompt_tokens, o.cached_tokens, o.output_tokens);
        spans::chat_done(&chat, o.finish, prompt, cached, output);
        self.metrics.run_finished(o.queued, prompt, cached, output);
    }
}

/// Writes the run's events into its log, for as long as anybody reads it.
async fn forward(
    mut events: UnboundedReceiver<Event>,
    log: Weak<Log>,
    mut told: Told,
    mut seam: Seam,
) {
    loop {
        let event = events.recv().await;
        told.hear(event.as_ref());
        // Nobody reads any more; the engine's last word is still waited for.
        let Some(log) = log.upgrade() else {
            if event.is_none() {
                return;
            }
            continue;
        };
        let Some(event) = event else {
            return log.end();
        };
        match seam.join(event) {
            Ok(Some(event)) => log.push(event),
            Ok(None) => {}
            Err(()) => {
                log.push(Event::Failed(EngineError::Abandoned));
                return log.end();
            }
        }
    }
}
