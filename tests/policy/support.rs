//! Components for tests: the bundled ones, and small ones written in WebAssembly text.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stent::policy::{
    Facts, Hook, Listed, Observer, Policies, Settings, Snapshot, State, Surroundings,
};
use stent::types::{Message, Role, Special, Token, Tokenizer};

/// One token a character; `<s>` and `</s>` are 1 and 2 where they are parsed.
pub struct Letters;

pub struct Quiet;
impl Observer for Quiet {}

/// A policies folder, a data folder, and the gateway's policies over them.
pub struct Bench {
    pub root: tempfile::TempDir,
    pub settings: Settings,
}

impl Tokenizer for Letters {
    fn encode(&self, text: &str, special: Special) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            if special == Special::Parse
                && let Some((token, after)) = [(1, "<s>"), (2, "</s>")]
                    .into_iter()
                    .find_map(|(token, name)| Some((token, rest.strip_prefix(name)?)))
            {
                tokens.push(token);
                rest = after;
                continue;
            }
            tokens.push(next as Token + 10);
            rest = &rest[next.len_utf8()..];
        }
        tokens
    }

    fn bytes(&self, token: Token) -> Vec<u8> {
        match token {
            1 => b"<s>".to_vec(),
            2 => b"</s>".to_vec(),
            _ => char::from_u32((token - 10) as u32)
                .unwrap()
                .to_string()
                .into_bytes(),
        }
    }
}

impl Bench {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = Settings {
            dir: root.path().join("policies"),
            settle: Duration::from_millis(30),
            grace: Duration::from_millis(50),
            ..Settings::default()
        };
        std::fs::create_dir_all(&settings.dir).unwrap();
        // Compiled code is shared between tests of one run, as it is between starts in production.
        Self { root, settings }
    }

    pub fn start(&self) -> Arc<Policies> {
        self.try_start().unwrap()
    }

    pub fn try_start(&self) -> Result<Arc<Policies>, stent::policy::PolicyError> {
        Policies::start(
            self.settings.clone(),
            Surroundings {
                tokenizer: Arc::new(Letters),
                data_dir: self.root.path().join("data"),
                observer: Arc::new(Quiet),
                compiler: Some(env!("CARGO_BIN_EXE_stent").into()),
            },
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.settings.dir.join(name)
    }

    /// Puts a file there as `mv` would.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let half = self.path(&format!(".{name}.tmp"));
        std::fs::write(&half, bytes).unwrap();
        std::fs::rename(half, self.path(name)).unwrap();
    }
}

pub fn facts() -> Facts {
    Facts {
        model: "test".into(),
        now_ms: 1_700_000_000_000,
        context: 2000,
        reserved_output: 200,
        streaming: true,
        attributes: Vec::new(),
    }
}

pub fn snapshot(policies: &Policies) -> Snapshot {
    policies.snapshot(facts(), tracing::Span::none())
}

/// Alternating user and assistant messages, a user's last.
pub fn talk(texts: &[&str]) -> Vec<Message> {
    texts
        .iter()
        .enumerate()
        .map(|(at, text)| Message {
            id: at as u64,
            role: if at % 2 == 0 {
                Role::User
            } else {
                Role::Assistant
            },
            text: (*text).into(),
            tokens: Letters.encode(text, Special::AsText).into(),
            pinned: false,
            exchange: at as u32 / 2,
        })
        .collect()
}

pub fn plugin(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist");
    std::fs::read(path.join(format!("{name}.wasm"))).unwrap()
}

pub fn serving(policies: &Policies, hook: Hook) -> Listed {
    let listed = policies.list().0.into_iter();
    let live = |l: &Listed| l.hook == Some(hook) && matches!(l.state, State::Live | State::Builtin);
    listed.into_iter().find(live).unwrap()
}

pub fn rejected(policies: &Policies, name: &str) -> Option<(String, String)> {
    policies.list().0.into_iter().find_map(|l| {
        let here = l.state == State::Rejected && l.file.as_ref()?.file_name()? == name;
        here.then(|| (l.stage.unwrap_or_default(), l.reason.unwrap_or_default()))
    })
}

/// The hook of a rejected file, where it is known.
pub fn rejected_hook(policies: &Policies, name: &str) -> Option<Hook> {
    let listed = policies.list().0.into_iter();
    let mut here = listed.filter(|l| {
        l.state == State::Rejected
            && l.file
                .as_ref()
                .and_then(|f| f.file_name())
                .is_some_and(|n| n == name)
    });
    here.next().unwrap().hook
}

/// Looks again and again, at most ten seconds.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A component for one hook, from a core module in text whose placeholders are filled: `wat` is
/// the body of the hook's function.
pub struct Guest {
    pub world: &'static str,
    pub name: &'static str,
    /// Functions, globals and data beside the standard ones; the hook's own export is in here.
    pub body: String,
    pub configure: &'static str,
    pub wit: Option<String>,
}

impl Guest {
    /// A trimmer whose `trim` runs `body`, which leaves the address of its result.
    ///
    /// `result<decision, string>` in memory: a byte (0 ok), at 8 the variant (0 keep-all,
    /// 1 keep-from, 2 keep), at 16 its payload.
    pub fn trimmer(name: &'static str, body: &str) -> Self {
        let body = format!(
            r#"(func (export "stent:policy/session-trimmer@0.1.0#trim")
                (param $req i32) (param $max i32) (param $low i32) (param $per i32)
                (param $some i32) (param $prev i64) (param $all i32) (result i32)
                (local $n i32)
                (call $drop-request (local.get $req)) (call $drop-transcript (local.get $all))
                {body})"#
        );
        Self {
            world: "trim",
            name,
            body,
            configure: "(i32.const 512)",
            wit: None,
        }
    }

    pub fn configure(mut self, body: &'static str) -> Self {
        self.configure = body;
        self
    }

    pub fn core(&self) -> Vec<u8> {
        self.build("", "0.1.0")
    }

    /// With another import.
    pub fn core_with(&self, import: &str) -> Vec<u8> {
        self.build(import, "0.1.0")
    }

    /// Written for another version of the contract.
    pub fn core_versioned(&self, version: &str) -> Vec<u8> {
        self.build("", version)
    }

    fn build(&self, import: &str, version: &str) -> Vec<u8> {
        let (name, len) = (self.name, self.name.len());
        let (body, configure) = (&self.body, self.configure);
        let module = format!(
            r#"(module
              (import "stent:policy/host@0.1.0" "log" (func $log (param i32 i32 i32)))
              (import "stent:policy/host@0.1.0" "count-tokens" (func $count (param i32 i32) (result i32)))
              (import "stent:policy/request@0.1.0" "[resource-drop]request" (func $drop-request (param i32)))
              (import "stent:policy/request@0.1.0" "[resource-drop]transcript" (func $drop-transcript (param i32)))
              {import}
              (memory (export "memory") 2)
              (global $top (mut i32) (i32.const 4096))
              (data (i32.const 64) "{name}")
              (data (i32.const 128) "1.0.0")
              ;; descriptor at 256: name, version, summary, no schema
              (data (i32.const 256) "\40\00\00\00\{len:02x}\00\00\00\80\00\00\00\05\00\00\00\40\00\00\00\01\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00")
              ;; 512: ok; 528: error "no" at 600
              (data (i32.const 528) "\01\00\00\00\58\02\00\00\0e\00\00\00")
              (data (i32.const 600) "it will not do")
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
                (global.set $top (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
              (func (export "stent:policy/policy@0.1.0#describe") (result i32) (i32.const 256))
              (func $configure (export "stent:policy/policy@0.1.0#configure") (param i32 i32) (result i32) {configure})
              (func (export "stent:policy/policy@0.1.0#self-test") (result i32) (i32.const 512))
              {body})"#
        );
        let module = module.replace("0.1.0", version);
        let mut bytes = wat::parse_str(&module).unwrap_or_else(|e| panic!("{e}\n{module}"));
        let wit = self.wit.clone().unwrap_or_else(|| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/policy.wit");
            std::fs::read_to_string(path).unwrap()
        });
        let mut resolve = wit_parser::Resolve::default();
        let package = resolve.push_str("policy.wit", &wit).unwrap();
        let world = resolve.select_world(&[package], Some(self.world)).unwrap();
        let encoding = wit_component::StringEncoding::UTF8;
        wit_component::embed_component_metadata(&mut bytes, &resolve, world, encoding).unwrap();
        bytes
    }
}

/// A trimmer that keeps everything: harmless, and small.
pub fn keeper(name: &'static str) -> Vec<u8> {
    Guest::trimmer(name, "(i32.const 1024)").core()
}
