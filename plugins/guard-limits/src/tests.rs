use super::*;

fn rules(config: &str) -> Rules {
    Rules::new(config).expect(config)
}

fn verdict(text: &str) -> Verdict {
    check(&rules("{}"), text)
}

fn refusal(config: &str, text: &str) -> String {
    match check(&rules(config), text) {
        Verdict::Refuse(reason) => reason,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn questions_pass() {
    let dashes = "-".repeat(200);
    for text in [
        "What is diabetes?",
        "",
        "?",
        "What causes chest pain?",
        "Ist Asthma heilbar? 喘息とは",
        &dashes,
    ] {
        assert_eq!(verdict(text), Verdict::Allow, "{text}");
    }
}

#[test]
fn emergencies_are_answered_however_they_are_written() {
    let reply = Verdict::Reply(rules("{}").reply);
    for text in [
        "I can't breathe",
        "help i CANT   breathe!!!",
        "I can’t breathe, what now?",
        "My son is unconscious.",
        &format!("{} I want to die", "no ".repeat(5000)),
    ] {
        assert_eq!(verdict(text), reply, "{text:.40}");
    }
}

#[test]
fn phrases_match_whole_words() {
    let config = rules(r#"{"emergency_phrases": ["a stroke"], "emergency_reply": "Call."}"#);
    assert_eq!(
        check(&config, "It is a stroke!"),
        Verdict::Reply("Call.".into())
    );
    assert_eq!(check(&config, "Vera Strokes"), Verdict::Allow);
    assert_eq!(check(&config, "a strokes"), Verdict::Allow);
    assert_eq!(
        check(&rules(r#"{"emergency_phrases": []}"#), "i want to die"),
        Verdict::Allow
    );
}

#[test]
fn length_is_counted_in_characters() {
    let config = r#"{"max_chars": 5}"#;
    assert_eq!(check(&rules(config), "äöüßé"), Verdict::Allow);
    assert_eq!(
        refusal(config, "äöüßéa"),
        "The message has 6 characters; at most 5 are accepted."
    );
}

#[test]
fn repetition_is_noticed_from_one_more_than_allowed() {
    let config = r#"{"max_repeats": 4}"#;
    let reason = "The message repeats the same text more than 4 times.";
    for unit in [
        "a",
        "ha",
        "ha ",
        "one two ",
        "喘",
        "the quick brown fox jumps over lazy dogs ",
    ] {
        assert_eq!(
            check(&rules(config), &unit.repeat(4)),
            Verdict::Allow,
            "{unit}"
        );
        assert_eq!(
            refusal(config, &format!("Say: {} please", unit.repeat(5))),
            reason,
            "{unit}"
        );
    }
}

#[test]
fn repeats_agrees_with_its_definition() {
    let plain = |items: &[u64], most: usize| {
        (1..=LONGEST_PERIOD).any(|period| {
            items
                .windows(period * (most + 1))
                .any(|w| w.chunks(period).all(|unit| *unit == w[..period]))
        })
    };
    let mut state = 7_u64;
    for _ in 0..20_000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let items: Vec<u64> = (0..state >> 60).map(|i| state >> (20 + i) & 1).collect();
        for most in 1..5 {
            assert_eq!(
                repeats(&items, most),
                plain(&items, most),
                "{items:?} {most}"
            );
        }
    }
}

#[test]
fn config_errors_name_the_key() {
    let cases = [
        (
            r#"{"max_char": 1}"#,
            "config.max_char: unknown key, expected one of",
        ),
        (
            r#"{"max_chars": 0}"#,
            "config.max_chars: found 0, expected a whole number from 1",
        ),
        (
            r#"{"emergency_phrases": ["x", "!"]}"#,
            "config.emergency_phrases[1]: found no words",
        ),
    ];
    for (config, expected) in cases {
        let error = Rules::new(config).err().expect(config);
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn self_test_passes_for_every_config() {
    let configs = [
        "{}",
        r#"{"max_chars": 1}"#,
        r#"{"max_repeats": 2, "emergency_phrases": []}"#,
    ];
    for config in configs {
        assert_eq!(rules(config).self_test(), Ok(()), "{config}");
    }
}
