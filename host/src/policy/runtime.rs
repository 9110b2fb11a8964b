//! The one wasmtime engine of this process, and the thread that drives its epoch.
//!
//! Guests are called with `call_async` on a fiber and yield at every tick, so a guest that spins
//! takes turns with other tasks of its worker thread until its limit ends it. A plain call on the
//! worker is cheaper by about a microsecond, but would block that worker, and every stream on it,
//! for the whole limit. (Measured by `tests/policy/speed.rs`.)

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{
    Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, OptLevel,
    PoolingAllocationConfig,
};

use super::bindings::v0_1::EveryHook;
use super::host::HostState;
use super::pool::RESERVE;
use super::settings::Limits;

/// Stack of a guest, and of the fiber that it runs on (host calls included), in bytes.
pub(super) const WASM_STACK: usize = 512 << 10;
const FIBER_STACK: usize = 1 << 20;
/// Core modules of one component.
const CORE_INSTANCES: u32 = 64;
/// Entries of one function table.
pub(super) const TABLE_ELEMENTS: usize = 20_000;
/// The epoch's step.
const TICK: Duration = Duration::from_millis(1);

/// Engine, linker and ticker.
pub(super) struct Runtime {
    pub engine: Engine,
    pub linker: Linker<HostState>,
    pub counts: Counts,
    ticker: Ticker,
}

/// What an engine's code counts while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    Nothing,
    /// About one unit for each instruction, the same in every run; code that counts is slower.
    Fuel,
}

/// Raises the epoch every millisecond for as long as the engine lives; joined on drop.
struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    pub(super) fn new(limits: &Limits, counts: Counts) -> wasmtime::Result<Self> {
        let mut config = config(counts);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits)));
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        EveryHook::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut HostState| state)?;
        let ticker = Ticker::start(engine.weak())?;
        Ok(Self {
            engine,
            linker,
            counts,
            ticker,
        })
    }

    pub(super) fn is_ticking(&self) -> bool {
        self.ticker
            .thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }
}

/// An engine that only compiles: it allocates on demand, because the pool reserves more address
/// space than a compiling child is allowed.
pub(super) fn compiler(counts: Counts) -> wasmtime::Result<Engine> {
    Engine::new(&config(counts))
}

/// Names everything that compiled code depends on: version, target, flags, tunables.
pub(super) fn compatibility(engine: &Engine) -> String {
    let mut hasher = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hex::encode(&hasher.0.finalize()[..8])
}

/// What compiled code depends on, the same in every engine of the gateway that serves.
fn config(counts: Counts) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_memory64(false)
        .epoch_interruption(true)
        .consume_fuel(counts == Counts::Fuel)
        .concurrency_support(false)
        .cranelift_opt_level(OptLevel::Speed)
        .memory_init_cow(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(FIBER_STACK);
    config
}

fn pool(limits: &Limits) -> PoolingAllocationConfig {
    // A component made from another language's runtime holds several core modules: Python's 38.
    // Their number is only counted; tables take address space.
    let mut pool = PoolingAllocationConfig::new();
    let instances = limits.instances.saturating_add(RESERVE);
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES))
        .total_memories(instances.saturating_mul(2))
        .total_tables(instances.saturating_mul(4))
        .total_stacks(instances)
        .max_memories_per_component(4)
        .max_tables_per_component(16)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_tables_per_module(4)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(usize::try_from(limits.memory).unwrap_or(usize::MAX))
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(resident())
        .table_keep_resident(16 << 10)
        .async_stack_keep_resident(16 << 10);
    pool
}

/// How much of a used memory is put back to its first state in place, in bytes; what lies above is
/// given back and costs page faults anew, and an interrupt of every other processor.
fn resident() -> usize {
    match PoolingAllocationConfig::is_pagemap_scan_available() {
        // The kernel (Linux 6.7 and later) tells which pages were written to: only those are put back.
        true => 4 << 20,
        // All of it is overwritten: more would cost more than it spares.
        false => 256 << 10,
    }
}

impl Ticker {
    fn start(engine: EngineWeak) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("stent-epoch".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(TICK);
                    match engine.upgrade() {
                        Some(engine) => engine.increment_epoch(),
                        None => return,
                    }
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panicked ticker has nothing left to clean up.
            let _ = thread.join();
        }
    }
}

/// SHA-256 as a `Hasher`: unlike the default one it is the same in every build.
struct Sha(Sha256);

impl Hasher for Sha {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
    }
}
