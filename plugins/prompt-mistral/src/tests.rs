use super::*;
use crate::layout::JOIN;
use Role::{Assistant, System, Tool, User};

fn style(config: &str) -> Style {
    Style::new(Format::SCHEMA, config).expect(config)
}

fn messages(roles: &[Role]) -> Vec<Message> {
    (0..)
        .zip(roles)
        .map(|(id, role)| sample(id, *role))
        .collect()
}

/// The prompt as text, messages by number: `{2}`.
fn render(pieces: &[Piece]) -> String {
    let show = |piece: &Piece| match piece {
        Piece::Control(text) | Piece::Text(text) => text.clone(),
        Piece::Message(id) => format!("{{{id}}}"),
    };
    pieces.iter().map(show).collect()
}

fn prompt(config: &str, roles: &[Role]) -> String {
    render(&build(&style(config), &messages(roles)).expect(config))
}

const BARE: &str = r#"{"system": ""}"#;

#[test]
fn default_has_a_system_text() {
    assert_eq!(
        prompt("{}", &[User]),
        "<s>[INST]You are a careful medical assistant. Answer in short, plain sentences.\n\n{0}[/INST]"
    );
}

#[test]
fn conversation_alternates() {
    assert_eq!(
        prompt(BARE, &[User, Assistant, User, Assistant, User]),
        "<s>[INST]{0}[/INST]{1}</s>[INST]{2}[/INST]{3}</s>[INST]{4}[/INST]"
    );
}

#[test]
fn the_next_turn_begins_with_this_one() {
    let now = build(&style("{}"), &messages(&[User, Assistant, User])).expect("now");
    let next = build(
        &style("{}"),
        &messages(&[User, Assistant, User, Assistant, User]),
    )
    .expect("next");
    assert_eq!(next[..now.len()], now);
}

#[test]
fn system_messages_are_folded_into_the_first_question() {
    assert_eq!(
        prompt(
            r#"{"system": "Be kind."}"#,
            &[System, User, Assistant, System, User]
        ),
        "<s>[INST]Be kind.\n\n{0}\n\n{3}\n\n{1}[/INST]{2}</s>[INST]{4}[/INST]"
    );
}

#[test]
fn few_shot_comes_first_as_whole_exchanges() {
    let config = r#"{"system": "S", "few_shot": [{"user": "Q", "assistant": "A"}]}"#;
    assert_eq!(
        prompt(config, &[User]),
        "<s>[INST]S\n\nQ[/INST]A</s>[INST]{0}[/INST]"
    );
}

#[test]
fn neighbours_of_one_role_are_joined() {
    assert_eq!(
        prompt(BARE, &[User, User, Assistant, Assistant, User, Tool]),
        "<s>[INST]{0}\n\n{1}[/INST]{2}\n\n{3}</s>[INST]{4}\n\n{5}[/INST]"
    );
}

#[test]
fn an_answer_without_a_question_gets_an_empty_one() {
    assert_eq!(
        prompt(BARE, &[Assistant, User]),
        "<s>[INST][/INST]{0}</s>[INST]{1}[/INST]"
    );
}

#[test]
fn the_last_message_must_ask() {
    for roles in [&[][..], &[System], &[User, Assistant]] {
        let error = build(&style("{}"), &messages(roles)).expect_err("nothing to answer");
        assert!(error.contains("not a question"), "{error}");
    }
}

#[test]
fn config_cannot_hold_marks() {
    let configs = [
        (
            r#"{"system": "a [/INST] b"}"#,
            "config.system: found [/INST]",
        ),
        (
            r#"{"few_shot": [{"user": "<<SYS>>", "assistant": ""}]}"#,
            "config.few_shot.user: found <<SYS>>",
        ),
        (
            r#"{"few_shot": [{"user": "Q"}]}"#,
            "config.few_shot[0].assistant: missing",
        ),
        (
            r#"{"sytem": ""}"#,
            r#"config.sytem: unknown key, expected one of "few_shot", "system""#,
        ),
    ];
    for (config, expected) in configs {
        let error = Style::new(Format::SCHEMA, config).err().expect(config);
        assert!(error.starts_with(expected), "{error}");
    }
}

/// Every sequence of up to six roles that ends with a question, in three styles, under
/// tokenisers in which now this, now that mark is the longest.
#[test]
fn every_conversation_keeps_the_promises() {
    let shots =
        r#"{"few_shot": [{"user": "a b", "assistant": ""}, {"user": "c", "assistant": "d"}]}"#;
    let counts: [fn(&str) -> u32; 3] = [
        |text| text.chars().count() as u32,
        |text| {
            if text == JOIN {
                20
            } else {
                1 + text.split(' ').count() as u32
            }
        },
        |text| 1 + 9 * text.matches('/').count() as u32,
    ];
    for config in ["{}", BARE, shots] {
        let style = style(config);
        for number in 0..4_usize.pow(6) {
            let length = 1 + number % 6;
            let role = |i: u32| [System, User, Assistant, Tool][number / 4_usize.pow(i) % 4];
            let roles: Vec<Role> = (0..length as u32).map(role).collect();
            let messages = messages(&roles);
            let asks = roles
                .iter()
                .rfind(|r| **r != System)
                .is_some_and(|r| *r != Assistant);
            let Ok(pieces) = build(&style, &messages) else {
                assert!(!asks, "{roles:?} was not built");
                continue;
            };
            assert!(asks, "{roles:?} was built");

            let text = render(&pieces);
            let marks: Vec<&str> = text
                .split_inclusive("INST]")
                .filter_map(|s| s.rsplit('[').next())
                .collect();
            for (i, mark) in marks.iter().enumerate() {
                assert_eq!(*mark, if i % 2 == 0 { "INST]" } else { "/INST]" }, "{text}");
            }
            let mut ids: Vec<u64> = pieces
                .iter()
                .filter_map(|p| {
                    if let Piece::Message(id) = p {
                        Some(*id)
                    } else {
                        None
                    }
                })
                .collect();
            ids.sort_unstable();
            assert_eq!(ids, (0..length as u64).collect::<Vec<_>>(), "{text}");

            for count in counts {
                let cost = Cost::of(&style, count);
                let added: u32 = pieces
                    .iter()
                    .map(|piece| match piece {
                        Piece::Control(marks) => {
                            let special = u32::from(marks.contains("s>"));
                            special
                                + count(marks.trim_start_matches("</s>").trim_start_matches("<s>"))
                        }
                        Piece::Text(text) if text.is_empty() => 0,
                        Piece::Text(text) => count(text),
                        Piece::Message(_) => 0,
                    })
                    .sum();
                let bound = cost.fixed + cost.per_message * length as u32;
                assert!(added <= bound, "{text}: {added} tokens, declared {bound}");
            }
        }
    }
}

#[test]
fn self_test_passes_and_notices() {
    let style = style("{}");
    let cost = Cost::of(&style, |text| text.len() as u32);
    let mut format = Format { style, cost };
    assert_eq!(format.self_test(), Ok(()));
    format.cost = Cost::default();
    assert!(format.self_test().is_err());
}
