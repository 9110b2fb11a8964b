//! GBNF grammars by llama.cpp's own engine, kept out of any sampler chain: there an exception would
//! cross into Rust, and the end of text aborts.

use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::engine::sampling::{Candidate, Grammar};
use crate::types::Token;

/// A grammar and how far the answer has got in it.
pub struct Gbnf {
    sampler: LlamaSampler,
    model: Arc<LlamaModel>,
}

impl Gbnf {
    pub fn new(model: &Arc<LlamaModel>, text: &str) -> Result<Self, String> {
        let sampler =
            LlamaSampler::grammar(model, text, "root").map_err(|error| error.to_string())?;
        Ok(Self {
            sampler,
            model: Arc::clone(model),
        })
    }
}

impl Grammar for Gbnf {
    fn filter(&mut self, candidates: &mut Vec<Candidate>) {
        let data = candidates
            .iter()
            .map(|c| LlamaTokenData::new(LlamaToken(c.token), c.logit, 0.0));
        let mut array = LlamaTokenDataArray::new(data.collect(), false);
        self.sampler.apply(&mut array);
        candidates.clear();
        let kept = array.data.iter().map(|data| Candidate {
            token: data.id().0,
            logit: data.logit(),
        });
        candidates.extend(kept);
    }

    fn accept(&mut self, token: Token) -> Result<(), String> {
        // The end of text ends the grammar too; llama.cpp aborts when it is told so.
        if self.model.vocab().is_eog(LlamaToken(token)) {
            return Ok(());
        }
        self.sampler
            .try_accept(LlamaToken(token))
            .map_err(|error| error.to_string())
    }
}

/// The GBNF text for a JSON schema.
pub fn from_schema(schema: &str) -> Result<String, String> {
    llama_cpp_2::json_schema_to_grammar(schema).map_err(|error| error.to_string())
}
