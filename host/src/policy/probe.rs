//! Tries a compiled component before it serves anyone: instantiate, describe, configure,
//! self-test.

use std::sync::Arc;

use futures::executor::block_on;
use wasmtime::component::Component;

use super::fault::RunError;
use super::guest::Template;
use super::pool::Crew;
use super::reload::Way;
use super::runtime::Runtime;
use super::settings::Limits;
use super::stage::{Rejection, Stage};
use super::types::Hook;
use super::words::{head, plain};
use crate::types::Tokenizer;

/// Longest sentence of a policy about itself.
const SUMMARY_BYTES: usize = 300;

/// A policy that may serve a hook.
pub(super) struct Candidate {
    pub hook: Hook,
    pub name: String,
    pub version: String,
    /// Its own sentence for operators.
    pub summary: String,
    /// The most memory that an instance took to get ready, in bytes.
    pub memory_peak: usize,
    pub template: Template,
}

/// What a probe needs of the process.
pub(super) struct Bench<'a> {
    pub runtime: &'a Runtime,
    pub crew: &'a Crew,
    pub tokenizer: &'a Arc<dyn Tokenizer>,
    pub limits: &'a Arc<Limits>,
}

impl Bench<'_> {
    /// Blocks for as long as the guest takes, at most three times `limits.probe`.
    pub(super) fn probe(
        &self,
        way: &mut Way,
        component: &Component,
        hook: Hook,
        config: String,
    ) -> Result<Candidate, Rejection> {
        way.enter("instantiate");
        let unfit = |e: wasmtime::Error| Stage::Instantiate.reject(unfit(&e, self.limits));
        let tokenizer = self.tokenizer.clone();
        let limits = self.limits.clone();
        let template = Template::new(self.runtime, component, hook, config, limits, tokenizer)
            .map_err(unfit)?;
        let permit = self.crew.permit_patiently();
        let permit = permit.map_err(|e| Stage::Instantiate.reject(e.to_string()))?;
        let limit = self.limits.probe;
        let (described, memory_peak) = block_on(async {
            let mut instance = template.bare(permit).await.map_err(unfit)?;
            way.enter("probe");
            let at = |stage: Stage| move |fault: RunError| stage.reject(ended(&fault));
            let described = instance
                .describe(limit)
                .await
                .map_err(at(Stage::Describe))?;
            if !is_name(&described.name) {
                return Err(Stage::Describe.reject(format!(
                    "it calls itself {:?}, expected 1 to 64 lower-case letters, digits and dashes",
                    head(&described.name, 80)
                )));
            }
            if !is_version(&described.version) {
                return Err(Stage::Describe.reject(format!(
                    "its version is {:?}, expected 1 to 64 letters, digits, \".\", \"-\" and \"+\", \
                     such as \"1.0.0\"",
                    head(&described.version, 80)
                )));
            }
            let config = template.config();
            instance
                .configure(config, limit)
                .await
                .map_err(at(Stage::Configure))?;
            instance
                .self_test(limit)
                .await
                .map_err(at(Stage::SelfTest))?;
            Ok((described, instance.memory_peak()))
        })?;
        let template = template.named(&described.name);
        Ok(Candidate {
            hook,
            name: described.name,
            version: described.version,
            summary: plain(&described.summary, SUMMARY_BYTES).into_owned(),
            memory_peak,
            template,
        })
    }
}

fn unfit(error: &wasmtime::Error, limits: &Limits) -> String {
    match RunError::of(error, limits) {
        RunError::BadResult(_) => format!("it cannot be instantiated: {error:#}"),
        fault => ended(&fault),
    }
}

/// Here another limit applies than to a call that serves.
fn ended(fault: &RunError) -> String {
    match fault {
        RunError::Deadline { limit } => format!("it ran past policies.limits.probe = {limit:?}"),
        fault => fault.to_string(),
    }
}

fn is_name(name: &str) -> bool {
    is_word(name, |b| {
        b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
    })
}

fn is_version(version: &str) -> bool {
    is_word(version, |b| {
        b.is_ascii_alphanumeric() || b".-+".contains(&b)
    })
}

fn is_word(text: &str, fits: impl Fn(u8) -> bool) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(fits)
}
