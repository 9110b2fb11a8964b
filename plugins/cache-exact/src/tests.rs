use super::*;
use Role::{Assistant, System, User};

fn config(json: &str) -> Config {
    Config::new(json).expect(json)
}

/// The key of a conversation of these texts, everything granted.
fn ask(json: &str, texts: &[(Role, &str)]) -> Key {
    let messages: Vec<Message> = (0..)
        .zip(texts)
        .map(|(id, (role, _))| Message {
            id,
            role: *role,
            tokens: 1,
            pinned: false,
            exchange: 0,
        })
        .collect();
    key(&config(json), Scope::Shared, &messages, |id| {
        texts.get(id as usize).map(|t| t.1.into())
    })
}

const ALONE: &str = r#"{"normalise": true}"#;
const ALL: &str = r#"{"normalise": true, "normalise_history": true}"#;

#[test]
fn default_is_the_exact_prompt_of_this_session_for_an_hour() {
    let key = ask("{}", &[(User, "What is asthma?")]);
    assert_eq!(
        key,
        Key {
            basis: Basis::ExactPrompt,
            scope: Scope::Session,
            max_age_ms: 3_600_000
        }
    );
}

#[test]
fn scope_is_the_narrower_of_wish_and_grant() {
    let scopes = [
        ("session", Scope::Session),
        ("tenant", Scope::Tenant),
        ("shared", Scope::Shared),
    ];
    for (name, wished) in scopes {
        for (_, granted) in scopes {
            let config = config(&format!(r#"{{"scope": "{name}"}}"#));
            let found = key(&config, granted, &[], |_| None).scope;
            assert_eq!(found, if wished < granted { wished } else { granted });
        }
    }
}

#[test]
fn spellings_of_a_lone_question_share_a_key() {
    let key = |text: &str| ask(ALONE, &[(User, text)]).basis;
    let one = Basis::Parts(vec!["user:what is asthma".into()]);
    for text in [
        "What is asthma?",
        "  what IS\tasthma \n",
        "what is asthma ?!…",
        "WHAT IS ASTHMA",
    ] {
        assert_eq!(key(text), one, "{text}");
    }
    for text in ["what is asthma? now", "what is an asthma", "whatis asthma"] {
        assert_ne!(key(text), one, "{text}");
    }
    assert_eq!(key("ÄRZTE?"), Basis::Parts(vec!["user:ärzte".into()]));
}

#[test]
fn nothing_left_of_a_question_means_exact() {
    for text in ["???", " ", "", "…"] {
        assert_eq!(
            ask(ALONE, &[(User, text)]).basis,
            Basis::ExactPrompt,
            "{text:?}"
        );
    }
    assert_eq!(
        key(&config(ALONE), Scope::Shared, &[], |_| None).basis,
        Basis::ExactPrompt
    );
}

#[test]
fn a_follow_up_is_not_a_lone_question() {
    let about = |topic| {
        [
            (User, topic),
            (Assistant, "It is common."),
            (User, "What are its symptoms?"),
        ]
    };
    assert_eq!(ask(ALONE, &about("Asthma?")).basis, Basis::ExactPrompt);
    assert_ne!(ask(ALL, &about("Asthma?")), ask(ALL, &about("Gout?")));
    assert_eq!(ask(ALL, &about("Asthma?")), ask(ALL, &about("asthma")));
}

#[test]
fn system_messages_are_part_of_the_key() {
    let with = |system| ask(ALONE, &[(System, system), (User, "What is gout?")]);
    assert_ne!(with("Be short."), with("Be long."));
    assert_ne!(with("Be short."), ask(ALONE, &[(User, "What is gout?")]));
}

#[test]
fn one_message_cannot_pose_as_two() {
    let two = ask(ALL, &[(User, "a"), (Assistant, "b"), (User, "c")]);
    let one = ask(ALL, &[(User, "a assistant:b user:c")]);
    assert_ne!(two, one);
}

#[test]
fn only_finished_answers_are_kept() {
    let config = config(r#"{"ttl_seconds": 60}"#);
    assert_eq!(admit(&config, 1, Finish::Stop), Admission::Store(60_000));
    assert_eq!(admit(&config, 0, Finish::Stop), Admission::Skip);
    for finish in [
        Finish::Length,
        Finish::Filtered,
        Finish::Cancelled,
        Finish::Error,
    ] {
        assert_eq!(admit(&config, 1, finish), Admission::Skip, "{finish:?}");
    }
}

#[test]
fn max_age_follows_ttl_unless_set() {
    assert_eq!(config(r#"{"ttl_seconds": 60}"#).max_age_ms, 60_000);
    let both = config(r#"{"ttl_seconds": 60, "max_age_seconds": 10}"#);
    assert_eq!((both.ttl_ms, both.max_age_ms), (60_000, 10_000));
}

#[test]
fn config_errors_name_the_key() {
    let cases = [
        (r#"{"ttl": 1}"#, "config.ttl: unknown key, expected one of"),
        (
            r#"{"ttl_seconds": 0}"#,
            "config.ttl_seconds: found 0, expected a whole number from 1",
        ),
        (
            r#"{"scope": "all"}"#,
            r#"config.scope: found "all", expected one of"#,
        ),
        (
            r#"{"normalise_history": true}"#,
            "config.normalise_history: found true",
        ),
    ];
    for (json, expected) in cases {
        let error = Config::new(json).err().expect(json);
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn self_test_passes_for_every_config() {
    for json in [
        "{}",
        ALONE,
        ALL,
        r#"{"scope": "shared", "normalise": true}"#,
    ] {
        assert_eq!(config(json).self_test(), Ok(()), "{json}");
    }
}
