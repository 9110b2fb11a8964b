//! What a guest may answer to do harm, from `tests/corpus/results` and at random: it is within the rules
//! or refused with a sentence, and what passes never names what does not exist.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;

use super::encode::encode;
use super::pieces::Pieces;
use super::verify::{emitted, kept, lookup, verdict};
use crate::policy::bindings::v0_1::exports::stent::policy as wit;
use crate::policy::fault::RunError;
use crate::policy::types::{Basis, Layout, Lookup, Scope};
use crate::types::{Message, Role, Special, Token, Tokenizer};

/// A token a byte; from 1000 on where special tokens are parsed.
struct Bytes;

impl Tokenizer for Bytes {
    fn encode(&self, text: &str, special: Special) -> Vec<Token> {
        let from = if special == Special::Parse { 1000 } else { 0 };
        text.bytes().map(|byte| from + Token::from(byte)).collect()
    }
    fn bytes(&self, token: Token) -> Vec<u8> {
        vec![(token % 1000) as u8]
    }
}

const RESERVED: [&str; 2] = ["[INST]", "[/INST]"];
const ROOM: u32 = 400;

fn message(id: u64, text: &str, pinned: bool) -> Message {
    Message {
        id,
        role: Role::User,
        text: text.into(),
        tokens: Bytes.encode(text, Special::AsText).into(),
        pinned,
        exchange: 0,
    }
}

/// Four messages, of which one is pinned.
fn talk() -> Vec<Message> {
    let said = ["Be kind.", "Hello", "[IN", "What is it?"];
    let all = said.iter().zip(1..);
    all.map(|(text, id)| message(id, text, id == 1)).collect()
}

/// One clear sentence.
fn is_told(error: &RunError) {
    let RunError::BadResult(told) = error else {
        panic!("{error:?} is no bad result")
    };
    assert!(
        !told.is_empty() && told.len() < 400 && !told.contains('\n'),
        "{told:?}"
    );
}

fn check_kept(messages: &[Message], decision: wit::session_trimmer::Decision) {
    match kept(messages, decision) {
        Ok(kept) => {
            assert!(kept.is_sorted_by(|a, b| a < b), "{kept:?}");
            assert!(kept.iter().all(|&at| at < messages.len()), "{kept:?}");
        }
        Err(error) => is_told(&error),
    }
}

fn check_lookup(asked: wit::cache::Lookup, granted: Scope) {
    match lookup(asked, granted) {
        Ok(Lookup::Bypass) => {}
        Ok(Lookup::By(key)) => {
            assert!(key.scope <= granted);
            if let Basis::Parts(parts) = key.basis {
                let bytes: usize = parts.iter().map(String::len).sum();
                assert!((1..=64 << 10).contains(&bytes) && parts.len() <= 64);
            }
        }
        Err(error) => is_told(&error),
    }
}

/// Whether a reserved string stands in the prompt that the policy did not write by itself.
fn forged(tokens: &[Token], reserved: &str) -> bool {
    let all: Vec<u8> = tokens.iter().map(|&token| (token % 1000) as u8).collect();
    let typed = |at: usize| {
        tokens[at..at + reserved.len()]
            .iter()
            .any(|&token| token < 1000)
    };
    let mut windows = all.windows(reserved.len()).enumerate();
    windows.any(|(at, window)| window == reserved.as_bytes() && typed(at))
}

fn check_plan(messages: &[Message], plan: &wit::prompt_builder::Plan) {
    let layout = Layout {
        fixed: 0,
        per_message: 0,
        reserved: RESERVED.map(str::to_owned).into(),
    };
    let pieces = Pieces::new(Arc::new(Bytes));
    match encode(&pieces, messages, plan, &layout, ROOM) {
        Ok(prompt) => {
            let came = prompt.tokens.len();
            assert!(came <= ROOM as usize, "{came} tokens");
            assert!(prompt.stable <= came && prompt.head <= came);
            assert!(prompt.stop.iter().all(|stop| !stop.is_empty()));
            for reserved in RESERVED {
                assert!(
                    !forged(&prompt.tokens, reserved),
                    "{plan:?} forges {reserved}"
                );
            }
            let must = messages.last().into_iter();
            for message in must.chain(messages.iter().filter(|m| m.pinned)) {
                let named = |piece: &_| matches!(piece, wit::prompt_builder::Piece::Message(id) if *id == message.id);
                assert_eq!(plan.pieces.iter().filter(|piece| named(piece)).count(), 1);
            }
        }
        Err(error) => is_told(&error),
    }
}

fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().unwrap().iter();
    all.map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn piece(value: &Value) -> wit::prompt_builder::Piece {
    use wit::prompt_builder::Piece;
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    match (text("control"), text("text")) {
        (Some(text), _) => Piece::Control(text),
        (_, Some(text)) => Piece::Text(text),
        _ => Piece::Message(value["message"].as_u64().unwrap()),
    }
}

/// A result of the corpus; true where it passes.
fn read(result: &Value) -> bool {
    use wit::session_trimmer::Decision;
    let messages = talk();
    if let Some(ids) = result.get("keep") {
        let decision = || match ids.as_array() {
            Some(ids) => Decision::Keep(ids.iter().map(|id| id.as_u64().unwrap()).collect()),
            None => Decision::KeepAll,
        };
        check_kept(&messages, decision());
        return kept(&messages, decision()).is_ok();
    }
    if let Some(id) = result["keep_from"].as_u64() {
        return kept(&messages, Decision::KeepFrom(id)).is_ok();
    }
    if let Some(parts) = result.get("parts") {
        let scope = match result["scope"].as_str().unwrap() {
            "session" => wit::cache::Scope::Session,
            "tenant" => wit::cache::Scope::Tenant,
            _ => wit::cache::Scope::Shared,
        };
        let asked = || {
            wit::cache::Lookup::By(wit::cache::Key {
                basis: wit::cache::Basis::Parts(texts(parts)),
                scope,
                max_age_ms: u64::MAX,
            })
        };
        check_lookup(asked(), Scope::Tenant);
        return lookup(asked(), Scope::Tenant).is_ok();
    }
    if let Some(pieces) = result.get("plan") {
        let plan = wit::prompt_builder::Plan {
            pieces: pieces.as_array().unwrap().iter().map(piece).collect(),
            stop: texts(&result["stop"]),
            stable_pieces: u32::MAX,
        };
        check_plan(&messages, &plan);
        let pieces = Pieces::new(Arc::new(Bytes));
        let layout = Layout {
            fixed: 0,
            per_message: 0,
            reserved: RESERVED.map(str::to_owned).into(),
        };
        return encode(&pieces, &messages, &plan, &layout, ROOM).is_ok();
    }
    if let Some(text) = result["verdict"].as_str() {
        let text = text.to_owned();
        return verdict(match result["kind"].as_str().unwrap() {
            "rewrite" => wit::guard::Verdict::Rewrite(text),
            _ => wit::guard::Verdict::Reply(text),
        })
        .is_ok();
    }
    let number = |key: &str| usize::try_from(result[key].as_u64().unwrap()).unwrap();
    emitted(&"x".repeat(number("emit")), number("fed"), 0).is_ok()
}

#[test]
fn each_result_of_the_corpus_passes_or_is_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/results");
    let passes = [
        "emit-nothing",
        "keep-all",
        "keep-from-pinned",
        "key-with-nul",
        "plan-forged-turn",
        "plan-usual",
        "verdict-usual",
    ];
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let result = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read(&result), passes.contains(&&*name), "{name}");
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}

/// Any text, and often a piece of what the layout reserves.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "(\\PC|\\[INST\\]|\\[/|INST|\\]){0,12}",
        "\\[?/?(IN)?(ST)?\\]?"
    ]
}

fn pieces() -> impl Strategy<Value = Vec<wit::prompt_builder::Piece>> {
    use wit::prompt_builder::Piece;
    let one = prop_oneof![
        text().prop_map(Piece::Control),
        text().prop_map(Piece::Text),
        (0_u64..7).prop_map(Piece::Message),
    ];
    prop::collection::vec(one, 0..12)
}

proptest! {
    #[test]
    fn kept_messages_exist_and_rise(
        pinned in prop::collection::vec(any::<bool>(), 0..8),
        ids in prop::collection::vec(0_u64..12, 0..12),
        from in any::<u64>(),
    ) {
        use wit::session_trimmer::Decision;
        let messages: Vec<_> = pinned
            .iter()
            .zip(1..)
            .map(|(&pinned, at)| message(at * 3 % 11, "x", pinned))
            .collect();
        check_kept(&messages, Decision::KeepAll);
        check_kept(&messages, Decision::KeepFrom(from));
        check_kept(&messages, Decision::KeepFrom(from % 12));
        check_kept(&messages, Decision::Keep(ids));
    }

    #[test]
    fn a_key_is_never_wider_than_granted(
        parts in prop::collection::vec("\\PC{0,9}", 0..80),
        exact: bool,
        scopes in (0_usize..3, 0_usize..3),
        max_age_ms: u64,
    ) {
        use wit::cache::{Basis, Key, Lookup, Scope as Asked};
        let key = Key {
            basis: if exact { Basis::ExactPrompt } else { Basis::Parts(parts) },
            scope: [Asked::Session, Asked::Tenant, Asked::Shared][scopes.0],
            max_age_ms,
        };
        let granted = [Scope::Session, Scope::Tenant, Scope::Shared][scopes.1];
        check_lookup(Lookup::By(key), granted);
    }

    #[test]
    fn a_plan_keeps_to_what_there_is_and_forges_no_turn(
        said in prop::collection::vec(text(), 1..6),
        pieces in pieces(),
        stop in prop::collection::vec("\\PC{0,3}", 0..3),
        stable_pieces: u32,
        all: bool,
    ) {
        let messages: Vec<_> = said.iter().zip(1..).map(|(text, id)| message(id, text, id == 1)).collect();
        let mut pieces = pieces;
        if all {
            // One that names every message once, so that more than refusals are seen.
            pieces.retain(|piece| !matches!(piece, wit::prompt_builder::Piece::Message(_)));
            for message in &messages {
                let at = (message.id as usize * 2).min(pieces.len());
                pieces.insert(at, wit::prompt_builder::Piece::Message(message.id));
            }
        }
        let plan = wit::prompt_builder::Plan { pieces, stop, stable_pieces };
        check_plan(&messages, &plan);
    }

    #[test]
    fn a_filters_flood_is_refused(said in 0_usize..200_000, fed in 0_usize..100_000) {
        match emitted(&"x".repeat(said), fed, 0) {
            Ok(()) => prop_assert!(said <= fed + (64 << 10)),
            Err(error) => is_told(&error),
        }
    }

    #[test]
    fn a_guards_text_is_neither_empty_nor_endless(text in "\\PC{0,9}", times in 0_usize..20_000) {
        let text = text.repeat(times);
        let bytes = text.len();
        match verdict(wit::guard::Verdict::Reply(text)) {
            Ok(_) => prop_assert!((1..=64 << 10).contains(&bytes)),
            Err(error) => is_told(&error),
        }
    }
}
