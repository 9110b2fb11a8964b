//! Joins a run to what was said before it: the host that computed the answer is lost, this one
//! computes it again from its beginning, and whoever reads gets the rest.

use crate::engine::Event;

/// What was said already and is not said again.
#[derive(Default)]
pub struct Seam {
    rest: String,
    /// Anything at all was said.
    midway: bool,
}

impl Seam {
    pub fn behind(said: String) -> Self {
        Self {
            midway: !said.is_empty(),
            rest: said,
        }
    }

    /// The part of an event that is new.
    ///
    /// # Errors
    /// The run says something else than was said: there is no joining them.
    pub fn join(&mut self, event: Event) -> Result<Option<Event>, ()> {
        match event {
            // Positions come before the text.
            Event::Queued { .. } if self.midway => Ok(None),
            Event::Text { text, tokens, .. } if !self.rest.is_empty() => self.text(&text, tokens),
            Event::Finished(_) if !self.rest.is_empty() => Err(()),
            event => Ok(Some(event)),
        }
    }

    fn text(&mut self, text: &str, tokens: Vec<i32>) -> Result<Option<Event>, ()> {
        if let Some(rest) = self.rest.strip_prefix(text) {
            self.rest = rest.to_owned();
            return Ok(None);
        }
        let new = text.strip_prefix(self.rest.as_str()).ok_or(())?.to_owned();
        self.rest.clear();
        // Some of these ids were told with the text before; twice is better than never, since ids
        // that do not say the text are made anew from it.
        Ok(Some(Event::Text {
            text: new,
            tokens,
            // Whoever asks for them is computed for alone.
            logprobs: Vec::new(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Event {
        Event::Text {
            text: text.into(),
            tokens: vec![1],
            logprobs: Vec::new(),
        }
    }

    /// All that is said behind `said`; `Err` where it cannot be.
    fn behind(said: &str, again: &[&str]) -> Result<String, ()> {
        let mut seam = Seam::behind(said.into());
        let mut new = String::new();
        for piece in again {
            if let Some(Event::Text { text, .. }) = seam.join(text(piece))? {
                new += &text;
            }
        }
        Ok(new)
    }

    #[test]
    fn the_rest_is_said_without_a_hole_and_nothing_twice() {
        for said in ["", "a", "ab", "abc", "abc ü", "abc üd"] {
            for again in [vec!["abc üde"], vec!["a", "b", "c ", "ü", "d", "e"]] {
                let new = behind(said, &again).unwrap();
                assert_eq!(format!("{said}{new}"), "abc üde", "{said:?} {again:?}");
            }
        }
    }

    #[test]
    fn another_text_is_no_continuation() {
        assert_eq!(behind("abc", &["ab", "x"]), Err(()));
        assert_eq!(behind("abc", &["abd"]), Err(()));
        let mut seam = Seam::behind("abc".into());
        assert!(seam.join(Event::Queued { position: 1 }).unwrap().is_none());
        assert!(seam.join(text("ab")).unwrap().is_none());
        let end = Event::Finished(crate::engine::Outcome {
            finish: crate::types::Finish::Stop,
            prompt_tokens: 1,
            cached_tokens: 0,
            output_tokens: 1,
            queued: std::time::Duration::ZERO,
            prefill: std::time::Duration::ZERO,
            decode: std::time::Duration::ZERO,
        });
        assert!(seam.join(end).is_err(), "it ended before it said all");
    }
}
