//! `[policies]` of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::attributes::{self, Attributes};
use super::bundled;
use super::signature;
use super::types::{Hook, Scope};
use crate::types::{place, units};

/// Where policies come from, what they may use, and what happens when one fails.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The folder that is watched for `.wasm` files. Made if missing.
    pub dir: PathBuf,
    /// Revisions of each hook that stay on disk for a rollback.
    pub keep: usize,
    /// Ed25519 public keys (64 hex digits). When there are any, each file needs `NAME.wasm.sig`.
    pub trusted_keys: Vec<String>,
    /// Look at the folder every `rescan`, every second at the latest, instead of waiting for
    /// events: for file systems that raise none (NFS).
    pub poll: bool,
    /// How often the whole folder is looked at, events or not.
    #[serde(with = "units::duration")]
    pub rescan: Duration,
    /// A file counts as written when size and time of change stayed the same this long.
    #[serde(with = "units::duration")]
    pub settle: Duration,
    /// How long a deleted file's policy keeps serving, so that "delete, then write" is one change.
    #[serde(with = "units::duration")]
    pub grace: Duration,
    /// Share of the prompt budget, in percent, that trimming cuts down to.
    pub low_water: u8,
    /// A file to which everything that hooks are asked and answer is appended, for
    /// `stent policy replay`. It holds what people write; empty: nothing is recorded.
    pub record: PathBuf,
    /// Recording ends when the file has this many bytes.
    #[serde(with = "units::bytes")]
    pub record_max_bytes: u64,
    /// Bytes that remembered decisions may take: a policy is not asked again what it decided a while
    /// ago about the same request and messages. 0: every call is made.
    #[serde(with = "units::bytes")]
    pub remember: u64,
    /// What policies are told about a request: a fixed text, or a trusted header's.
    pub attributes: Attributes,
    pub limits: Limits,
    pub breaker: Breaker,
    pub guard: HookSettings,
    pub trim: HookSettings,
    pub prompt: HookSettings,
    pub cache: HookSettings,
    pub filter: HookSettings,
}

/// One hook's policy.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookSettings {
    /// The bundled policy that serves while the folder has none; `none` for plain native code.
    pub bundled: Option<String>,
    /// Handed to the policy's `configure` as JSON.
    pub config: Map<String, Value>,
    /// What happens to a request when the policy faults.
    pub fail: Fail,
    /// Not ready before a policy from the folder serves this hook.
    pub required: bool,
    /// Hex sha256 of the only file that is accepted.
    pub pin: Option<String>,
    /// The widest scope that a cache policy may ask for.
    pub scope: Scope,
    /// Golden cases that every candidate must pass, beside those in `NAME.cases.json`.
    pub cases: Option<PathBuf>,
    /// Name of the one file of the folder that may serve this hook; any, if unset.
    pub file: Option<String>,
    /// Name of a file of the folder that runs beside the live policy and never serves, like any
    /// `NAME.shadow.wasm`.
    pub shadow: Option<String>,
}

/// Who decides when a policy faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fail {
    /// The built-in default decides.
    #[default]
    Open,
    /// Nobody: the request is refused.
    Closed,
}

impl Fail {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Fail::Open => "open",
            Fail::Closed => "closed",
        }
    }
}

/// Bounds of one instance, one call, and one compilation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest file, in bytes.
    #[serde(with = "units::bytes")]
    pub file_bytes: u64,
    /// Largest linear memory of an instance, in bytes.
    #[serde(with = "units::bytes")]
    pub memory: u64,
    /// Time that a guest may run in one call of a hook.
    #[serde(with = "units::duration")]
    pub call: Duration,
    /// Time for each of `describe`, `configure` and `self-test` before activation.
    #[serde(with = "units::duration")]
    pub probe: Duration,
    /// Bytes of strings and lists that one call may hand to the host.
    #[serde(with = "units::bytes")]
    pub result_bytes: u64,
    /// Log lines of one instance; what exceeds them is counted and dropped.
    pub log_lines: u32,
    /// Instances alive at once, warm ones included.
    pub instances: u32,
    /// Instances kept warm for each hook.
    pub warm: usize,
    /// Memory of the compiling child process, in bytes.
    #[serde(with = "units::bytes")]
    pub compile_memory: u64,
    /// CPU time of the compiling child process.
    #[serde(with = "units::duration")]
    pub compile_cpu: Duration,
    /// Wall-clock time of the compiling child process.
    #[serde(with = "units::duration")]
    pub compile_wall: Duration,
}

/// When a policy from the folder faults this often, the last good one takes over.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// Faults within `window` that roll back; 0 switches the breaker off.
    pub faults: u32,
    #[serde(with = "units::duration")]
    pub window: Duration,
}

impl Settings {
    pub fn hook(&self, hook: Hook) -> &HookSettings {
        match hook {
            Hook::Guard => &self.guard,
            Hook::Trim => &self.trim,
            Hook::Prompt => &self.prompt,
            Hook::Cache => &self.cache,
            Hook::Filter => &self.filter,
        }
    }

    /// What the hook's policy is configured with, as JSON.
    pub(super) fn config(&self, hook: Hook) -> String {
        serde_json::Value::Object(self.hook(hook).config.clone()).to_string()
    }

    /// One sentence for the first value that cannot work; it names key, value and remedy.
    pub fn check(&self) -> Result<(), String> {
        place::folder("policies.dir", "--policies", &self.dir)?;
        for hook in Hook::ALL {
            if let Some(name) = self.hook(hook).bundled.as_deref().filter(|n| *n != "none") {
                bundled::source(name).map_err(|e| format!("policies.{hook}.bundled: {e}"))?;
            }
            if let Some(pin) = &self.hook(hook).pin
                && !is_hex(pin, 64)
            {
                return Err(format!(
                    "policies.{hook}.pin: {pin:?} is not a sha256 of 64 hex digits"
                ));
            }
        }
        self.check_files()?;
        if let Some(key) = self.trusted_keys.iter().find(|key| !is_hex(key, 64)) {
            return Err(format!(
                "policies.trusted_keys: {key:?} is not an ed25519 public key of 64 hex digits"
            ));
        }
        if let Some(key) = self.trusted_keys.iter().find(|key| !signature::is_key(key)) {
            return Err(format!(
                "policies.trusted_keys: {key:?} is no point of the curve that can verify a \
                 signature, expected a public key as `stent policy keygen` prints it"
            ));
        }
        if self.keep < 2 {
            return Err(format!(
                "policies.keep: {}, expected at least 2: what serves, and what a rollback goes back to",
                self.keep
            ));
        }
        attributes::check(&self.attributes)?;
        if !(1..=100).contains(&self.low_water) {
            return Err(format!(
                "policies.low_water: {}, expected 1 to 100",
                self.low_water
            ));
        }
        if !self.record.as_os_str().is_empty() && self.record_max_bytes == 0 {
            return Err(
                "policies.record_max_bytes: 0, expected at least 1, or policies.record = \"\""
                    .into(),
            );
        }
        let limits = &self.limits;
        let warm = limits.warm * Hook::ALL.len() * 2;
        if (limits.instances as usize) < warm {
            return Err(format!(
                "policies.limits.instances: {}, expected at least {warm} (twice policies.limits.warm \
                 = {} for each of {} hooks)",
                limits.instances,
                limits.warm,
                Hook::ALL.len()
            ));
        }
        if !(1 << 20..=1 << 32).contains(&limits.memory) {
            return Err(format!(
                "policies.limits.memory: {}, expected 1048576 to 4294967296 bytes",
                limits.memory
            ));
        }
        Ok(())
    }
}

impl Settings {
    /// What `file` and `shadow` name can lie in the folder, and does one of the two.
    fn check_files(&self) -> Result<(), String> {
        for hook in Hook::ALL {
            let HookSettings { file, shadow, .. } = self.hook(hook);
            for (key, name) in [("file", file), ("shadow", shadow)] {
                let Some(name) = name else { continue };
                let plain =
                    name.ends_with(".wasm") && !name.starts_with('.') && !name.contains('/');
                if !plain {
                    return Err(format!(
                        "policies.{hook}.{key}: {name:?}, expected the name of a file in \
                         policies.dir, such as \"{hook}.wasm\""
                    ));
                }
            }
            let Some(file) = file else { continue };
            let elsewhere = Hook::ALL
                .into_iter()
                .find(|&it| self.hook(it).shadow.as_ref() == Some(file));
            let why = match elsewhere {
                Some(it) => format!("policies.{it}.shadow names it"),
                None if file.ends_with(".shadow.wasm") => "its name ends in .shadow.wasm".into(),
                None => continue,
            };
            return Err(format!(
                "policies.{hook}.file: {file:?} is a shadow, {why}; expected a file that may serve"
            ));
        }
        Ok(())
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dir: "policies".into(),
            keep: 5,
            trusted_keys: Vec::new(),
            poll: false,
            rescan: Duration::from_secs(30),
            settle: Duration::from_millis(50),
            grace: Duration::from_secs(2),
            low_water: 75,
            record: PathBuf::new(),
            record_max_bytes: 64 << 20,
            remember: 16 << 20,
            attributes: Attributes::new(),
            limits: Limits::default(),
            breaker: Breaker::default(),
            guard: HookSettings::default(),
            trim: HookSettings::default(),
            prompt: HookSettings::default(),
            cache: HookSettings::default(),
            filter: HookSettings::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 32 << 20,
            memory: 64 << 20,
            call: Duration::from_millis(50),
            probe: Duration::from_secs(2),
            result_bytes: 4 << 20,
            log_lines: 20,
            instances: 400,
            warm: 8,
            compile_memory: 4 << 30,
            compile_cpu: Duration::from_secs(60),
            compile_wall: Duration::from_secs(30),
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            faults: 20,
            window: Duration::from_secs(60),
        }
    }
}
