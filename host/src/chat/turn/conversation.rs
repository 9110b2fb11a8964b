//! What a turn's conversation is made of: the history, and what is new behind it.

use tracing::Span;

use super::Turn;
use crate::error::Error;
use crate::session::{Place, Session, SessionError};
use crate::trace::spans;
use crate::types::{Message, Role};

impl Turn {
    /// The history, and with it the right to write to the session until this turn ends.
    pub(super) async fn history(&mut self) -> Result<Session, Error> {
        let Some(key) = self.key() else {
            return Ok(Session::default());
        };
        let sessions = &self.gateway.sessions;
        let span = spans::session_load(&self.ask.span);
        match sessions.open_for(key).await {
            Ok(opened) => {
                spans::turns(&span, opened.session.messages.len() / 2);
                self.told_sessions("load", &span, opened.place, "ok");
                self.watch = Some(opened.writer.watch());
                self.writer = Some(opened.writer);
                Ok(opened.session)
            }
            Err(error) => {
                self.told_session_error("load", &span, &error);
                Err(error.into())
            }
        }
    }

    /// Takes down how a use of the sessions ended: on its span, in the metrics, and where the store
    /// failed and this host remembers in its stead on the request's span.
    pub fn told_sessions(
        &self,
        operation: &'static str,
        span: &Span,
        place: Place,
        result: &'static str,
    ) {
        spans::session_place(span, place.store);
        // What this host alone remembers is no success.
        let result = if place.store == "local" {
            "local"
        } else {
            result
        };
        self.gateway.metrics.session(operation, result);
        if let Some(kind) = place.trouble {
            spans::store_failure(&self.ask.span, kind);
        }
    }

    /// The same for one that failed.
    pub fn told_session_error(&self, operation: &'static str, span: &Span, error: &SessionError) {
        spans::session_place(span, self.gateway.sessions.store_name());
        spans::failed(span, error.kind());
        self.gateway.metrics.session(operation, error.kind());
        if let Some(kind) = error.trouble() {
            spans::store_failure(&self.ask.span, kind);
        }
    }

    /// An answer that is asked for anew takes the last exchange's place, once it is there. That is
    /// so where the last exchange asked the same: what broke off was never remembered, and then
    /// the last exchange is another one, which stays.
    ///
    /// `rewritten`: what a guard made of the question, which is what a session holds. Tells whether
    /// the exchange was taken out of the conversation.
    pub(super) fn take_back(&mut self, rewritten: Option<&str>) -> bool {
        let said = self.ask.messages.last().map(|said| said.text.as_str());
        let question = rewritten.or(said);
        if !self.ask.regenerates || question != self.session.last_question() {
            return false;
        }
        let Some(writer) = &mut self.writer else {
            return false;
        };
        let Some(before) = writer.replace_last(&self.session) else {
            return false;
        };
        self.session = before;
        // Once: the exchange before it may have asked the same.
        self.ask.regenerates = false;
        true
    }

    /// Lays the conversation out: the history, and what the client said behind it.
    pub(super) fn compose(&mut self) {
        self.anchor = self.session.anchor;
        let (id, exchange) = self.session.next();
        self.messages = self
            .session
            .messages_for(&self.gateway.engine.model().fingerprint)
            .map(|(message, known)| self.safe(message, known))
            .collect();
        let remembered = !self.messages.is_empty();
        self.add_said(id, exchange, remembered);
    }

    /// A message of the history. Its tokens hold unless its text contains what the present
    /// layout reserves: the layout may have been swapped since.
    ///
    /// `known`: the tokens are of the loaded model; another one may have been running before.
    fn safe(&self, message: &Message, known: bool) -> Message {
        let mut message = message.clone();
        if !known || self.reserves(&message.text) {
            message.tokens = self.encode(&message.text);
        }
        message
    }

    /// Appends what the client said: one message, or a conversation.
    fn add_said(&mut self, mut id: u64, mut exchange: u32, remembered: bool) {
        for (at, said) in self.ask.news(remembered).enumerate() {
            // An exchange begins with a question.
            if at > 0 && said.role == Role::User {
                exchange += 1;
            }
            let tokens = self.encode(&said.text);
            self.messages.push(Message {
                id,
                role: said.role,
                text: said.text.as_str().into(),
                tokens,
                pinned: said.role == Role::System,
                exchange,
            });
            id += 1;
        }
    }

    /// A guard's other text takes the new message's place.
    pub fn rewrite(&mut self, text: &str) -> Result<(), Error> {
        if self.take_back(Some(text)) {
            self.compose();
        }
        let tokens = self.encode(text);
        if let Some(last) = self.messages.last_mut() {
            last.text = text.into();
            last.tokens = tokens;
        }
        self.check_fit()
    }
}
