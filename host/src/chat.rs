//! The path of a request, from the question to the stream that answers it.

mod answer;
mod ask;
mod coalesce;
mod ending;
mod format;
mod history;
mod ready;
mod turn;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Span;

pub use ask::{Ask, Defaults, Params, Said};
pub use coalesce::Flights;
pub use format::Format;

use crate::admission::Admission;
use crate::cache::Cache;
use crate::engine::Engine;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::policy::{Policies, Verdict};
use crate::session::Sessions;
use crate::stream::{Head, Reader};
use crate::trace::{Finished, spans};
use turn::Turn;

/// Everything that a request meets.
pub struct Gateway {
    pub policies: Arc<Policies>,
    pub sessions: Sessions,
    pub cache: Cache,
    pub admission: Admission,
    pub flights: Flights,
    pub engine: Arc<dyn Engine>,
    pub metrics: Arc<Metrics>,
    /// What may change while serving; a request takes it once.
    pub live: ArcSwap<Live>,
    /// The answers being written: a shutdown waits for them.
    pub answers: TaskTracker,
    /// Ends them, each with an error of its own, when it has waited long enough.
    pub cut: CancellationToken,
}

/// The part of the configuration that holds from the next request on when it changes.
#[derive(Clone, Debug)]
pub struct Live {
    pub defaults: Defaults,
    /// A client that takes nothing of its answer for so long is cut off.
    pub reader_timeout: Duration,
    /// Tells on spans what people ask and what the model answers.
    pub capture_content: bool,
}

impl Gateway {
    /// Records how a request ended: on its span, in the metrics and in the access log. Once each.
    pub fn finished(&self, span: &Span, request: &Finished<'_>) {
        spans::outcome(span, request.outcome);
        self.metrics.request_finished(request);
        request.log(span);
    }
}

/// An answer that has begun: its parts come as they are produced.
pub struct Answer {
    pub head: Head,
    pub parts: Reader,
}

/// Takes a request through all stages. Whatever is refused is refused here, before the head of
/// the response; what fails after it is the answer's last part.
///
/// # Errors
/// Any [`Error`]; nothing was generated or remembered then.
pub async fn chat(gateway: &Arc<Gateway>, ask: Ask) -> Result<Answer, Error> {
    ask.params.check(gateway.engine.model())?;
    let live = gateway.live.load_full();
    // One generation of policies until the last byte: a swap in between changes nothing here.
    let policies = gateway
        .policies
        .snapshot(turn::facts(gateway, &live, &ask), ask.span.clone());
    spans::generation(&ask.span, policies.generation());

    // What means something to the prompt's layout is known before any text is tokenised.
    let layout = policies.layout().await?;
    let mut turn = Turn::open(gateway, live, ask, policies, layout).await?;

    match turn.policies.guard(&turn.messages).await? {
        Verdict::Allow => {}
        Verdict::Rewrite(text) => turn.rewrite(&text)?,
        Verdict::Reply(text) => return ready::fixed(turn, text).await,
        Verdict::Refuse(reason) => return Err(Error::Refused { reason }),
    }

    // The policy's own reading of the question is looked up before any work is done for it.
    let lookup = turn.policies.cache_decide(&turn.messages).await?;
    if let Some(hit) = turn.lookup(&lookup, None).await {
        return ready::replay(turn, hit, None).await;
    }

    let trimmed = turn.policies.trim(&turn.messages, turn.anchor).await;
    let trimmed = trimmed.map_err(|denied| turn.denied(denied))?;
    turn.tell_trimmed(&trimmed);
    let prompt = turn.policies.build(&trimmed.of(&turn.messages)).await;
    let prompt = prompt.map_err(|denied| turn.denied(denied))?;

    // The final prompt decides the seed, and with it the identity of the answer.
    turn.seed(&prompt)?;
    if let Some(hit) = turn.lookup(&lookup, Some(&prompt)).await {
        return ready::replay(turn, hit, Some(trimmed)).await;
    }

    // The last thing that can refuse: from here on the answer is on its way.
    let filter = turn.policies.open_filter().await?;
    turn.check_logprobs(&filter)?;
    let run = coalesce::board(&turn, &trimmed, &prompt).await?;
    answer::generate(turn, lookup, trimmed, prompt, filter, run)
}
