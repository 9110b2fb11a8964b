//! Texts that policies put into every prompt, and their tokens. A tokenizer takes longer for one of
//! them than the policy takes for the whole plan.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::types::{Special, Token, Tokenizer};

/// Texts that are remembered; then all are forgotten, because a policy may also bring new ones with
/// each request.
const TEXTS: usize = 128;
/// Longer ones are encoded anew.
const BYTES: usize = 4 << 10;

/// Encodes what it does not remember.
pub(in crate::policy) struct Pieces {
    tokenizer: Arc<dyn Tokenizer>,
    control: Known,
    text: Known,
}

type Known = Mutex<HashMap<Box<str>, Box<[Token]>>>;

impl Pieces {
    pub(in crate::policy) fn new(tokenizer: Arc<dyn Tokenizer>) -> Self {
        Self {
            tokenizer,
            control: Mutex::default(),
            text: Mutex::default(),
        }
    }

    /// Appends the tokens of a text that is not to be remembered.
    pub(super) fn append_once(&self, tokens: &mut Vec<Token>, text: &str) {
        tokens.extend(self.tokenizer.encode(text, Special::AsText));
    }

    /// Appends the text's tokens.
    pub(super) fn append(&self, tokens: &mut Vec<Token>, text: &str, special: Special) {
        if text.len() > BYTES {
            return tokens.extend(self.tokenizer.encode(text, special));
        }
        let known = match special {
            Special::Parse => &self.control,
            Special::AsText => &self.text,
        };
        // Nothing is left half done under this lock.
        if let Some(encoded) = known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(text)
        {
            return tokens.extend_from_slice(encoded);
        }
        let encoded = self.tokenizer.encode(text, special);
        tokens.extend_from_slice(&encoded);
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= TEXTS {
            known.clear();
        }
        known.insert(text.into(), encoded.into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A token for each byte, and another one where special tokens are parsed.
    #[derive(Default)]
    struct Bytes(AtomicUsize);

    impl Tokenizer for Bytes {
        fn encode(&self, text: &str, special: Special) -> Vec<Token> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let own = Token::from(special == Special::Parse);
            let bytes = text.bytes().map(Token::from);
            bytes.chain([own]).collect()
        }
        fn bytes(&self, _: Token) -> Vec<u8> {
            Vec::new()
        }
    }

    #[test]
    fn a_text_is_encoded_once_in_each_way() {
        let tokenizer = Arc::new(Bytes::default());
        let pieces = Pieces::new(tokenizer.clone());
        let encode = |text: &str, special| {
            let mut tokens = vec![7];
            pieces.append(&mut tokens, text, special);
            tokens
        };
        for _ in 0..3 {
            assert_eq!(encode("a", Special::Parse), [7, 97, 1]);
            assert_eq!(encode("a", Special::AsText), [7, 97, 0]);
        }
        assert_eq!(tokenizer.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn neither_many_nor_long_texts_are_kept() {
        let pieces = Pieces::new(Arc::new(Bytes::default()));
        let mut tokens = Vec::new();
        for n in 0..3 * TEXTS {
            pieces.append(&mut tokens, &n.to_string(), Special::Parse);
            assert!((1..=TEXTS).contains(&pieces.control.lock().unwrap().len()));
        }
        pieces.append(&mut tokens, &"x".repeat(BYTES + 1), Special::AsText);
        assert!(pieces.text.lock().unwrap().is_empty());
    }
}
