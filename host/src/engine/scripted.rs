//! Kind "scripted": says a fixed text at a set pace. No model, but the same thread, queue, slots and
//! scheduler as the real engine, so that everything around it can be tested and measured.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::sampling::Sampler;
use super::scheduler::{Limits, Op, Row};
use super::settings::{Script, Settings, StepBudget};
use super::worker::{self, Device, OpError, Parts};
use super::{Engine, EngineError, StartError};
use crate::types::{ModelInfo, Special, Token, Tokenizer};

pub const BOS: Token = 1;
pub const EOS: Token = 2;
/// Ids from here on are words of the script.
const WORDS: Token = 1 << 27;
/// Ids from here on are one to three bytes of text.
const BYTES: Token = 1 << 26;
/// Bytes in one token: about as many as a model's.
const TOKEN_BYTES: usize = 3;

/// The tokenizer alone.
pub fn tokenizer(settings: &Settings) -> Arc<dyn Tokenizer> {
    Arc::new(Words {
        words: words(settings),
    })
}

/// A tokenizer without a script: an estimate of any text's tokens that keeps the text.
pub fn bytes() -> Arc<dyn Tokenizer> {
    Arc::new(Words {
        words: Arc::new([]),
    })
}

fn words(settings: &Settings) -> Arc<[String]> {
    let words = settings.script.text.split_inclusive(' ');
    words.map(str::to_owned).collect()
}

/// Starts it. The settings are valid.
pub fn start(settings: &Settings) -> Result<Arc<dyn Engine>, StartError> {
    let words = words(settings);
    let parts = Parts {
        model: ModelInfo {
            name: "scripted".into(),
            fingerprint: hex::encode(Sha256::digest(&settings.script.text)),
            n_ctx: settings.n_ctx,
            n_vocab: u32::MAX,
            bos: BOS,
            eos: EOS,
            demo: false,
        },
        tokenizer: Arc::new(Words {
            words: Arc::clone(&words),
        }),
        limits: Limits {
            slots: settings.slots as usize,
            context: settings.n_ctx as usize,
            cells: settings.cells(),
            idle_sessions: settings.kv_sessions as usize,
            park_bytes: settings.kv_park_bytes,
            token_bytes: 1,
            max_rows: settings.n_batch as usize,
            max_chunk: settings.n_ubatch as usize,
            group: 1,
            budget: match settings.step_budget {
                StepBudget::Auto => None,
                StepBudget::Fixed(budget) => Some(budget),
            },
            speculation: false,
        },
        grammars: Box::new(|_| {
            let reason = "engine.kind \"scripted\" says a fixed text and follows none";
            Err(EngineError::Grammar(reason.into()))
        }),
        no_logprobs: Some("engine.kind \"scripted\" draws no tokens"),
        stall_after: settings.stall_after,
        locked_bytes: 0,
    };
    let Script { token, prefill, .. } = settings.script;
    let handle = worker::start(parts, move |run| {
        run(&mut Speaker {
            words: words.len(),
            token,
            prefill,
            rows: Vec::new(),
        });
        Ok::<(), StartError>(())
    })?;
    Ok(Arc::new(handle))
}

/// Text in threes of bytes, the script in words.
struct Words {
    words: Arc<[String]>,
}

impl Tokenizer for Words {
    fn encode(&self, text: &str, special: Special) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut rest = text;
        if special == Special::Parse {
            while let Some(at) = rest.find("<s>").into_iter().chain(rest.find("</s>")).min() {
                pack(&rest[..at], &mut tokens);
                let (token, len) = if rest[at..].starts_with("</s>") {
                    (EOS, 4)
                } else {
                    (BOS, 3)
                };
                tokens.push(token);
                rest = &rest[at + len..];
            }
        }
        pack(rest, &mut tokens);
        tokens
    }

    fn bytes(&self, token: Token) -> Vec<u8> {
        if token >= WORDS {
            let word = self.words.get((token - WORDS) as usize);
            return word
                .map(|word| word.clone().into_bytes())
                .unwrap_or_default();
        }
        if token < BYTES {
            return Vec::new();
        }
        let [_, bytes @ ..] = token.to_be_bytes();
        let len = (token >> 24) as usize & 3;
        bytes[TOKEN_BYTES - len..].to_vec()
    }
}

fn pack(text: &str, tokens: &mut Vec<Token>) {
    tokens.extend(text.as_bytes().chunks(TOKEN_BYTES).map(|chunk| {
        let packed = chunk
            .iter()
            .fold(0, |packed, &byte| packed << 8 | Token::from(byte));
        BYTES | (chunk.len() as Token) << 24 | packed
    }));
}

/// The device: sleeps, then says the next word.
struct Speaker {
    words: usize,
    token: Duration,
    prefill: Duration,
    rows: Vec<Row>,
}

impl Device for Speaker {
    fn apply(&mut self, _: Op) -> Result<(), OpError> {
        Ok(())
    }

    fn step(&mut self, rows: &[Row]) -> Result<(), String> {
        let answers = rows.iter().filter(|row| row.logits).count();
        let prompts = u32::try_from(rows.len() - answers).unwrap_or(u32::MAX);
        let mut took = self.prefill * prompts;
        if answers > 0 {
            took += self.token;
        }
        if !took.is_zero() {
            std::thread::sleep(took);
        }
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        Ok(())
    }

    fn draw(&mut self, row: usize, _: &mut Sampler) -> Result<Token, String> {
        let before = self.rows[row].token;
        let next = if before >= WORDS {
            before - WORDS + 1
        } else {
            0
        };
        Ok(if (next as usize) < self.words {
            WORDS + next
        } else {
            EOS
        })
    }

    fn is_end(&self, token: Token) -> bool {
        token == EOS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_its_tokens() {
        let words = Words {
            words: Arc::new([]),
        };
        for text in ["", "a", "ab", "abc", "abcd", "Grüße, </s> Welt"] {
            let tokens = words.encode(text, Special::AsText);
            let bytes: Vec<u8> = tokens
                .iter()
                .flat_map(|&token| words.bytes(token))
                .collect();
            assert_eq!(bytes, text.as_bytes());
            assert!(!tokens.contains(&EOS));
        }
        assert_eq!(words.encode("<s></s>", Special::Parse), [BOS, EOS]);
    }
}
