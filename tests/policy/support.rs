//! Gateways for tests: folders, settings, tokens, messages.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stent::policy::{
    Facts, Hook, HookSettings, Listed, Observer, Policies, Settings, Snapshot, State, Surroundings,
};
use stent::types::{Message, Role, Special, TenantId, Token, Tokenizer};

/// One token a character; `<s>` and `</s>` are 1 and 2 where they are parsed.
pub struct Letters;

pub struct Quiet;
impl Observer for Quiet {}

/// A policies folder, a data folder, and the gateway's policies over them.
pub struct Bench {
    pub root: tempfile::TempDir,
    pub settings: Settings,
    /// What compiles; one that is not there shows that nothing needs to be compiled.
    pub compiler: PathBuf,
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
            // Calls are what is tested.
            remember: 0,
            ..Settings::default()
        };
        std::fs::create_dir_all(&settings.dir).unwrap();
        // Compiled code is shared between tests of one run, as it is between starts in production.
        let compiler = env!("CARGO_BIN_EXE_stent").into();
        Self {
            root,
            settings,
            compiler,
        }
    }

    pub fn start(&self) -> Arc<Policies> {
        self.try_start().unwrap()
    }

    pub fn try_start(&self) -> Result<Arc<Policies>, stent::policy::PolicyError> {
        self.watched_by(Arc::new(Quiet))
    }

    pub fn watched_by(
        &self,
        observer: Arc<dyn Observer>,
    ) -> Result<Arc<Policies>, stent::policy::PolicyError> {
        Policies::start(
            self.settings.clone(),
            Surroundings {
                tokenizer: Arc::new(Letters),
                data_dir: self.root.path().join("data"),
                observer,
                compiler: Some(self.compiler.clone()),
            },
        )
    }

    pub fn hook(&mut self, hook: Hook) -> &mut HookSettings {
        let settings = &mut self.settings;
        match hook {
            Hook::Guard => &mut settings.guard,
            Hook::Trim => &mut settings.trim,
            Hook::Prompt => &mut settings.prompt,
            Hook::Cache => &mut settings.cache,
            Hook::Filter => &mut settings.filter,
        }
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
        tenant: TenantId::default(),
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

/// Golden cases of a trimmer that is given two messages.
pub fn cases(kept: &str) -> String {
    format!(
        r#"[{{"name": "keeps", "hook": "trim", "expect": {{"kept": {kept}}},
         "messages": [{{"role": "user", "text": "a"}}, {{"role": "user", "text": "b"}}]}}]"#
    )
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

/// Signs what lies in the folder.
pub fn sign(bench: &Bench, name: &str, key: &ed25519_dalek::SigningKey) {
    use ed25519_dalek::Signer;
    let bytes = std::fs::read(bench.path(name)).unwrap();
    let signature = hex::encode(key.sign(&bytes).to_bytes());
    std::fs::write(bench.path(&format!("{name}.sig")), signature).unwrap();
}

/// What the audit log says, oldest first: who, what, hook.
pub fn audited(policies: &Policies) -> Vec<(String, String, Hook)> {
    let changes = policies.audit(100).unwrap().into_iter();
    changes.map(|c| (c.by, c.what, c.hook)).collect()
}

/// The hook's shadow, if it has one.
pub fn shadow(policies: &Policies, hook: Hook) -> Option<Listed> {
    let mut all = policies.list().0.into_iter();
    all.find(|l| l.hook == Some(hook) && l.state == State::Shadow)
}

/// Looks again and again, at most half a minute.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
