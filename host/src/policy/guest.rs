//! One instance of one policy: instantiated, configured, used for one request, dropped.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::{Component, InstancePre};
use wasmtime::{Store, UpdateDeadline};

use super::bindings::v0_1::exports::stent::policy as wit;
use super::fault::RunError;
use super::host::HostState;
use super::runtime::{Counts, Runtime};
use super::settings::Limits;
use super::told::Lines;
use super::types::Hook;
use crate::types::Tokenizer;

/// Everything that is needed to make instances of one policy for one hook.
pub(super) struct Template {
    pre: InstancePre<HostState>,
    policy: wit::policy::GuestIndices,
    hook: HookIndices,
    config: String,
    label: Arc<str>,
    /// What its instances write together.
    lines: Arc<Lines>,
    tokenizer: Arc<dyn Tokenizer>,
    counts: Counts,
    pub limits: Arc<Limits>,
}

/// Passed from hand to hand by its address: it is some hundred bytes long.
pub(super) struct Instance(Box<Body>);

pub(super) struct Body {
    pub store: Store<HostState>,
    pub hook: HookGuest,
    policy: wit::policy::Guest,
    pub limits: Arc<Limits>,
    counts: Counts,
    /// Its share of the pooling allocator; given back when the instance is dropped.
    _permit: OwnedSemaphorePermit,
}

enum HookIndices {
    Guard(wit::guard::GuestIndices),
    Trim(wit::session_trimmer::GuestIndices),
    Prompt(wit::prompt_builder::GuestIndices),
    Cache(wit::cache::GuestIndices),
    Filter(wit::output_filter::GuestIndices),
}

pub(super) enum HookGuest {
    Guard(wit::guard::Guest),
    Trim(wit::session_trimmer::Guest),
    Prompt(wit::prompt_builder::Guest),
    Cache(wit::cache::Guest),
    Filter(wit::output_filter::Guest),
}

/// What a component says about itself.
pub(super) type Descriptor = wit::policy::Descriptor;

impl Template {
    /// Checks names of imports and exports; types are checked by the first instance.
    pub(super) fn new(
        runtime: &Runtime,
        component: &Component,
        hook: Hook,
        config: String,
        limits: Arc<Limits>,
        tokenizer: Arc<dyn Tokenizer>,
    ) -> wasmtime::Result<Self> {
        let pre = runtime.linker.instantiate_pre(component)?;
        let indices = match hook {
            Hook::Guard => HookIndices::Guard(wit::guard::GuestIndices::new(&pre)?),
            Hook::Trim => HookIndices::Trim(wit::session_trimmer::GuestIndices::new(&pre)?),
            Hook::Prompt => HookIndices::Prompt(wit::prompt_builder::GuestIndices::new(&pre)?),
            Hook::Cache => HookIndices::Cache(wit::cache::GuestIndices::new(&pre)?),
            Hook::Filter => HookIndices::Filter(wit::output_filter::GuestIndices::new(&pre)?),
        };
        let policy = wit::policy::GuestIndices::new(&pre)?;
        Ok(Self {
            pre,
            policy,
            hook: indices,
            config,
            label: hook.as_str().into(),
            lines: Arc::default(),
            tokenizer,
            counts: runtime.counts,
            limits,
        })
    }

    /// Log lines carry the policy's own name from here on.
    pub(super) fn named(mut self, name: &str) -> Self {
        self.label = name.into();
        self
    }

    /// A fresh instance that has not been configured.
    pub(super) async fn bare(&self, permit: OwnedSemaphorePermit) -> wasmtime::Result<Instance> {
        let (tokenizer, lines) = (self.tokenizer.clone(), self.lines.clone());
        let state = HostState::new(tokenizer, self.label.clone(), lines, &self.limits);
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(usize::try_from(self.limits.result_bytes).unwrap_or(usize::MAX));
        store.epoch_deadline_callback(|mut context| {
            let clock = &mut context.data_mut().clock;
            clock.charge(TICK)?;
            // A short call that happens to meet a tick is not worth a trip to the scheduler.
            Ok(match clock.ran > TICK {
                true => UpdateDeadline::Yield(1),
                false => UpdateDeadline::Continue(1),
            })
        });
        // Instantiating runs guest code too; without a deadline ahead it would trap at once.
        store.set_epoch_deadline(1);
        if self.counts == Counts::Fuel {
            store.set_fuel(u64::MAX)?;
        }
        let raw = self.pre.instantiate_async(&mut store).await?;
        let policy = self.policy.load(&mut store, &raw)?;
        let hook = match &self.hook {
            HookIndices::Guard(it) => HookGuest::Guard(it.load(&mut store, &raw)?),
            HookIndices::Trim(it) => HookGuest::Trim(it.load(&mut store, &raw)?),
            HookIndices::Prompt(it) => HookGuest::Prompt(it.load(&mut store, &raw)?),
            HookIndices::Cache(it) => HookGuest::Cache(it.load(&mut store, &raw)?),
            HookIndices::Filter(it) => HookGuest::Filter(it.load(&mut store, &raw)?),
        };
        Ok(Instance(Box::new(Body {
            store,
            hook,
            policy,
            limits: self.limits.clone(),
            counts: self.counts,
            _permit: permit,
        })))
    }

    /// A fresh instance, ready to be asked.
    pub(super) async fn configured(
        &self,
        permit: OwnedSemaphorePermit,
    ) -> Result<Instance, RunError> {
        let instance = self.bare(permit).await;
        let mut instance = instance.map_err(|e| RunError::of(&e, &self.limits))?;
        instance.configure(&self.config, self.limits.probe).await?;
        instance.store.data_mut().varied = false;
        Ok(instance)
    }

    pub(super) fn config(&self) -> &str {
        &self.config
    }
}

/// What one rise of the epoch costs a guest; see [`super::host::Clock`].
const TICK: Duration = Duration::from_millis(1);

impl Deref for Instance {
    type Target = Body;
    fn deref(&self) -> &Body {
        &self.0
    }
}

impl DerefMut for Instance {
    fn deref_mut(&mut self) -> &mut Body {
        &mut self.0
    }
}

impl Body {
    /// Starts the allowance of the next call.
    pub(super) fn allow(&mut self, limit: Duration) {
        self.store.data_mut().allow(limit);
        self.store.set_epoch_deadline(1);
        if self.counts == Counts::Fuel {
            // Only an engine that counts none refuses.
            let _ = self.store.set_fuel(u64::MAX);
        }
    }

    /// What the call burnt so far; 0 where nobody counts.
    pub(super) fn fuel(&self) -> u64 {
        match self.counts {
            Counts::Nothing => 0,
            Counts::Fuel => self.store.get_fuel().map_or(0, |left| u64::MAX - left),
        }
    }

    /// What an error of the runtime is to us.
    pub(super) fn fault(&self, error: &wasmtime::Error) -> RunError {
        RunError::of(error, &self.limits)
    }

    /// A trap, a guest's own error, or its result.
    pub(super) fn flatten<R>(
        &self,
        called: wasmtime::Result<Result<R, String>>,
    ) -> Result<R, RunError> {
        match called {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(reason)) => {
                let reason = self.store.data().heard.told(&reason, 500);
                Err(RunError::Refused(reason.into_owned()))
            }
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// The most memory that it had so far, in bytes.
    pub(super) fn memory_peak(&self) -> usize {
        self.store.data().limiter.peak
    }

    pub(super) async fn describe(&mut self, limit: Duration) -> Result<Descriptor, RunError> {
        self.allow(limit);
        let described = self.policy.call_describe(&mut self.store).await;
        described.map_err(|e| self.fault(&e))
    }

    pub(super) async fn configure(&mut self, json: &str, limit: Duration) -> Result<(), RunError> {
        self.allow(limit);
        let configured = self.policy.call_configure(&mut self.store, json).await;
        self.flatten(configured)
    }

    pub(super) async fn self_test(&mut self, limit: Duration) -> Result<(), RunError> {
        self.allow(limit);
        let tested = self.policy.call_self_test(&mut self.store).await;
        self.flatten(tested)
    }
}
