//! The engine thread's side of llama.cpp: one context, one batch, copies of parked sequences.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::log;
use crate::engine::sampling::Sampler;
use crate::engine::scheduler::{Limits, Op, Row, SeqId, Ticket};
use crate::engine::worker::{self, OpError};
use crate::types::Token;

/// Sizes that only the context cares about.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub n_batch: u32,
    pub n_ubatch: u32,
    pub threads: i32,
    pub threads_batch: i32,
}

/// The context and what belongs to it.
pub struct Device<'m> {
    model: &'m Arc<LlamaModel>,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    parked: HashMap<Ticket, SeqState>,
}

impl<'m> Device<'m> {
    pub fn open(
        backend: &LlamaBackend,
        model: &'m Arc<LlamaModel>,
        limits: &Limits,
        shape: Shape,
    ) -> Result<Self, String> {
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(limits.cells))
            .with_n_batch(shape.n_batch)
            .with_n_ubatch(shape.n_ubatch)
            .with_n_seq_max(limits.sequences() as u32)
            .with_n_threads(shape.threads)
            .with_n_threads_batch(shape.threads_batch)
            // One pool of cells for all: a step may mix answers with a piece of a prompt and still
            // reads the weights once.
            .with_kv_unified(true)
            .with_flash_attention_policy(llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED)
            .with_no_perf(true);
        log::forget();
        // llama.cpp writes to the model while it makes a context, so one at a time.
        static MAKING: Mutex<()> = Mutex::new(());
        let made = {
            let _one = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
            model.new_context(backend, params)
        };
        let context =
            made.map_err(|error| log::last_error().unwrap_or_else(|| error.to_string()))?;
        let batch = LlamaBatch::new(shape.n_batch as usize, 1);
        Ok(Self {
            model,
            context,
            batch,
            parked: HashMap::new(),
        })
    }

    /// The logits after row `row` of the last step; that row asked for them.
    pub fn logits(&self, row: usize) -> &[f32] {
        self.context.get_logits_ith(row as i32)
    }

    fn remove(&mut self, seq: SeqId, from: u32) -> Result<(), OpError> {
        self.remove_range(seq, from, None)
    }

    fn remove_range(&mut self, seq: SeqId, from: u32, to: Option<u32>) -> Result<(), OpError> {
        self.context
            .kv_cache_seq_rm(seq, Some(from), to)
            .map_err(|error| OpError::Broken(format!("sequence {seq} cannot be cut: {error}")))
    }

    fn share(&mut self, from: SeqId, to: SeqId, len: u32) -> Result<(), OpError> {
        let shared = self.context.kv_cache_seq_cp(from, to, Some(0), Some(len));
        shared
            .map_err(|error| OpError::Broken(format!("sequence {from} cannot be shared: {error}")))
    }

    fn park(&mut self, seq: SeqId, ticket: Ticket) -> Result<(), OpError> {
        match self.context.state_seq_get(seq, LlamaStateSeqFlags::empty()) {
            Ok(state) => {
                self.parked.insert(ticket, state);
            }
            // Without its copy the session is computed again when it comes back.
            Err(error) => tracing::warn!(seq, %error, "a session could not be parked"),
        }
        self.remove(seq, 0)
    }

    fn restore(&mut self, seq: SeqId, ticket: Ticket, len: u32) -> Result<(), OpError> {
        let whole = self.parked.remove(&ticket).is_some_and(|state| {
            self.context.state_seq_set(&state, seq).is_ok()
                && self.context.kv_cache_seq_pos_min(seq) == 0
                && self.context.kv_cache_seq_pos_max(seq) + 1 == len as i32
        });
        if whole {
            return Ok(());
        }
        self.remove(seq, 0)?;
        Err(OpError::Lost(seq))
    }
}

impl worker::Device for Device<'_> {
    fn apply(&mut self, op: Op) -> Result<(), OpError> {
        match op {
            Op::Remove { seq, from } => self.remove(seq, from),
            Op::Park { seq, ticket } => self.park(seq, ticket),
            Op::Restore { seq, ticket, len } => self.restore(seq, ticket, len),
            Op::Discard { ticket } => {
                self.parked.remove(&ticket);
                Ok(())
            }
            Op::Share { from, to, len } => self.share(from, to, len),
            Op::Adopt { from, to, len } => {
                self.remove_range(to, 0, Some(len))?;
                self.share(from, to, len)
            }
        }
    }

    fn step(&mut self, rows: &[Row]) -> Result<(), String> {
        self.batch.clear();
        for row in rows {
            self.batch
                .add(
                    LlamaToken(row.token),
                    row.pos as i32,
                    &[row.seq],
                    row.logits,
                )
                .map_err(|error| error.to_string())?;
        }
        self.context
            .decode(&mut self.batch)
            .map_err(|error| error.to_string())
    }

    fn draw(&mut self, row: usize, sampler: &mut Sampler) -> Result<Token, String> {
        sampler.draw(self.logits(row))
    }

    fn is_end(&self, token: Token) -> bool {
        self.model.vocab().is_eog(LlamaToken(token))
    }
}
