//! Small components in WebAssembly text, for guests that do what no compiler would let through.

use std::path::Path;

/// A component from a core module in text; `body` holds the exports of its hooks.
pub struct Guest {
    pub world: &'static str,
    pub name: &'static str,
    /// Functions, globals and data beside the standard ones; the hook's own export is in here.
    pub body: String,
    pub imports: String,
    pub configure: &'static str,
    pub self_test: &'static str,
    pub wit: Option<String>,
}

/// Everything fits: `result<_, string>` at 512.
const OK: &str = "(i32.const 512)";
/// It reports "it will not do": `result<_, string>` at 528, the text at 600, 14 bytes long.
pub const NO: &str = "(i32.const 528)";
/// Never comes back.
pub const SPIN: &str = "(loop (br 0)) (unreachable)";
/// Asks for 20 000 pages, where 1024 are allowed.
pub const HOARD: &str = "(drop (memory.grow (i32.const 20000))) (unreachable)";
pub const TRAP: &str = "(unreachable)";

impl Guest {
    fn new(world: &'static str, name: &'static str, body: String) -> Self {
        Self {
            world,
            name,
            body,
            imports: String::new(),
            configure: OK,
            self_test: OK,
            wit: None,
        }
    }

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
        Self::new("trim", name, body)
    }

    /// A guard; `result<verdict, string>`: a byte, at 4 the variant (0 allow, 1 rewrite, 2 reply,
    /// 3 refuse), at 8 and 12 its text.
    pub fn guard(name: &'static str, body: &str) -> Self {
        let body = format!(
            r#"(func (export "stent:policy/guard@0.1.0#check")
                (param $req i32) (param $all i32) (result i32)
                (call $drop-request (local.get $req)) (call $drop-transcript (local.get $all))
                {body})"#
        );
        Self::new("guarding", name, body)
    }

    /// An output filter. `open` leaves nothing on the stack, and is followed by success; `push`
    /// leaves the address of a `result<step, string>` (a byte, at 4 the variant, at 8 and 12 the
    /// text to emit, at 16 and 20 a reason), `finish` that of a `result<string, string>` (a byte,
    /// at 4 and 8 the text).
    pub fn filter(name: &'static str, open: &str, push: &str, finish: &str) -> Self {
        let body = format!(
            r#"(func (export "stent:policy/output-filter@0.1.0#[static]filter.open")
                (param $req i32) (result i32)
                (call $drop-request (local.get $req))
                {open}
                (i32.store (i32.const 1028) (call $new-filter (i32.const 7)))
                (i32.const 1024))
              (func (export "stent:policy/output-filter@0.1.0#[method]filter.push")
                (param $self i32) (param $text i32) (param $bytes i32) (result i32)
                {push})
              (func (export "stent:policy/output-filter@0.1.0#[method]filter.finish")
                (param $self i32) (param $why i32) (result i32)
                {finish})"#
        );
        Self {
            imports: r#"(import "[export]stent:policy/output-filter@0.1.0" "[resource-new]filter"
                (func $new-filter (param i32) (result i32)))"#
                .into(),
            ..Self::new("filtering", name, body)
        }
    }

    /// A prompt builder. `declare` leaves the address of a layout (`fixed`, `per-message`, and at
    /// 8 and 12 the list of reserved strings), `build` that of a `result<plan, string>`: a byte,
    /// at 4 and 8 the pieces, at 12 `stable-pieces`, at 16 and 20 the stop texts. A piece has 16
    /// bytes: the variant (0 control, 1 text, 2 message), at 8 its text or id.
    pub fn prompt(name: &'static str, declare: &str, build: &str) -> Self {
        let body = format!(
            r#"(func (export "stent:policy/prompt-builder@0.1.0#declare")
                (param $req i32) (result i32)
                (call $drop-request (local.get $req))
                {declare})
              (func (export "stent:policy/prompt-builder@0.1.0#build")
                (param $req i32) (param $all i32) (result i32)
                (local $out i32)
                {build}
                (local.set $out)
                (call $drop-request (local.get $req)) (call $drop-transcript (local.get $all))
                (local.get $out))"#
        );
        Self::new("prompt", name, body)
    }

    /// A cache policy. `result<lookup, string>`: a byte, at 8 the variant (0 bypass, 1 by), at 16
    /// the basis (0 exact prompt, 1 parts), at 20 and 24 the parts, at 28 the scope, at 32 the age.
    pub fn cache(name: &'static str, decide: &str, admit: &str) -> Self {
        let body = format!(
            r#"(func (export "stent:policy/cache@0.1.0#decide")
                (param $req i32) (param $all i32) (result i32)
                (call $drop-request (local.get $req)) (call $drop-transcript (local.get $all))
                {decide})
              (func (export "stent:policy/cache@0.1.0#admit")
                (param $req i32) (param $all i32) (param $answer i32) (param $finish i32)
                (param $in i32) (param $out i32) (param $ms i32) (result i32)
                (call $drop-request (local.get $req)) (call $drop-transcript (local.get $all))
                (call $drop-answer (local.get $answer))
                {admit})"#
        );
        Self {
            imports: r#"(import "stent:policy/request@0.1.0" "[resource-drop]answer"
                (func $drop-answer (param i32)))"#
                .into(),
            ..Self::new("caching", name, body)
        }
    }

    /// One component that serves the hooks of both.
    pub fn and(mut self, other: Self) -> Self {
        let (one, two) = (self.world, other.world);
        let world = format!("world both {{ include {one}; include {two}; }}");
        self.world = "both";
        self.imports.push_str(&other.imports);
        self.with(&other.body).by(format!("{}\n{world}", wit()))
    }

    /// Serves no hook at all.
    pub fn hookless(name: &'static str) -> Self {
        Self::new("base", name, String::new())
    }

    pub fn configure(mut self, body: &'static str) -> Self {
        self.configure = body;
        self
    }

    pub fn self_test(mut self, body: &'static str) -> Self {
        self.self_test = body;
        self
    }

    /// More at the module's top level.
    pub fn with(mut self, text: &str) -> Self {
        self.body.push_str(text);
        self
    }

    /// With another import, which `wit` may offer.
    pub fn importing(mut self, import: &str) -> Self {
        self.imports.push_str(import);
        self
    }

    /// Built by another contract than ours.
    pub fn by(mut self, wit: String) -> Self {
        self.wit = Some(wit);
        self
    }

    pub fn core(&self) -> Vec<u8> {
        self.versioned("0.1.0")
    }

    /// Written for another version of the contract.
    pub fn versioned(&self, version: &str) -> Vec<u8> {
        let (name, len) = (self.name, self.name.len());
        let (body, imports) = (&self.body, &self.imports);
        let (configure, self_test) = (self.configure, self.self_test);
        let module = format!(
            r#"(module
              (import "stent:policy/host@0.1.0" "log" (func $log (param i32 i32 i32)))
              (import "stent:policy/host@0.1.0" "count-tokens" (func $count (param i32 i32) (result i32)))
              (import "stent:policy/request@0.1.0" "[resource-drop]request" (func $drop-request (param i32)))
              (import "stent:policy/request@0.1.0" "[resource-drop]transcript" (func $drop-transcript (param i32)))
              {imports}
              (memory (export "memory") 2)
              (global $top (mut i32) (i32.const 8192))
              (data (i32.const 64) "{name}")
              (data (i32.const 128) "1.0.0")
              ;; descriptor at 256: name, version, summary, no schema
              (data (i32.const 256) "\40\00\00\00\{len:02x}\00\00\00\80\00\00\00\05\00\00\00\40\00\00\00\01\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00")
              (data (i32.const 528) "\01\00\00\00\58\02\00\00\0e\00\00\00")
              (data (i32.const 600) "it will not do")
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
                (global.set $top (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
              (func (export "stent:policy/policy@0.1.0#describe") (result i32) (i32.const 256))
              (func $configure (export "stent:policy/policy@0.1.0#configure") (param i32 i32) (result i32) {configure})
              (func (export "stent:policy/policy@0.1.0#self-test") (result i32) {self_test})
              {body})"#
        );
        let module = module.replace("0.1.0", version);
        let mut bytes = wat::parse_str(&module).unwrap_or_else(|e| panic!("{e}\n{module}"));
        let wit = self.wit.clone().unwrap_or_else(wit);
        let mut resolve = wit_parser::Resolve::default();
        let package = resolve.push_str("policy.wit", &wit).unwrap();
        let world = resolve.select_world(&[package], Some(self.world)).unwrap();
        let encoding = wit_component::StringEncoding::UTF8;
        wit_component::embed_component_metadata(&mut bytes, &resolve, world, encoding).unwrap();
        bytes
    }
}

/// The contract as it stands.
pub fn wit() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/policy.wit");
    std::fs::read_to_string(path).unwrap()
}

/// A trimmer that keeps everything: harmless, and small.
pub fn keeper(name: &'static str) -> Vec<u8> {
    Guest::trimmer(name, "(i32.const 1024)").core()
}

/// Instructions that store these 32-bit numbers, one after the other.
pub fn words(at: u32, words: &[u32]) -> String {
    let store = |(n, word): (usize, &u32)| {
        let at = at as usize + 4 * n;
        format!("(i32.store (i32.const {at}) (i32.const {word}))")
    };
    words.iter().enumerate().map(store).collect()
}
