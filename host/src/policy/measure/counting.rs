//! An engine of its own for counting.

use std::sync::Arc;

use super::Unmeasured;
use crate::policy::compile::{Compiled, Compiler};
use crate::policy::fault::RunError;
use crate::policy::generation::Revision;
use crate::policy::guest::Template;
use crate::policy::pool::Pool;
use crate::policy::runtime::{Counts, Runtime};
use crate::policy::workbench::{Draft, Workbench};

/// The same policy, compiled for an engine that counts: code that serves does not, because counting
/// slows it down.
pub(super) struct Counting {
    runtime: Runtime,
    compiled: Compiled,
}

impl Counting {
    pub(super) fn new(bench: &Workbench, draft: &Draft) -> Result<Self, Unmeasured> {
        let runtime = Runtime::new(&bench.limits, Counts::Fuel).map_err(Unmeasured::Runtime)?;
        let (engine, folder) = (&runtime.engine, bench.scratch.0.join("counting"));
        let compiler = Compiler::new(folder, None, engine).map_err(Unmeasured::Scratch)?;
        let source = bench.source(&draft.sha256);
        let compiled = compiler.compile(engine, &source, &draft.sha256, &bench.limits);
        Ok(Self {
            compiled: compiled.map_err(Unmeasured::Rejected)?,
            runtime,
        })
    }

    pub(super) fn revision(
        &self,
        bench: &Workbench,
        of: &Revision,
    ) -> Result<Arc<Revision>, Unmeasured> {
        let config = of.pool.as_ref().map_or("{}", |pool| pool.template.config());
        let (limits, tokenizer) = (bench.limits.clone(), bench.shared.tokenizer.clone());
        let (component, config) = (&self.compiled.component, config.to_owned());
        let template = Template::new(&self.runtime, component, of.hook, config, limits, tokenizer);
        let template = template.map_err(|e| RunError::of(&e, &bench.limits))?;
        Ok(Arc::new(Revision {
            name: of.name.clone(),
            version: of.version.clone(),
            granted: of.granted,
            pool: Some(Pool::new(template, bench.crew.clone())),
            ..Revision::native(of.hook, of.fail)
        }))
    }
}
