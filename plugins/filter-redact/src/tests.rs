use super::*;

fn config(json: &str) -> Config {
    Config::new(json).expect(json)
}

fn clean(text: &str) -> String {
    redact(&config("{}"), &[text])
}

#[test]
fn addresses_and_numbers_are_taken_out() {
    let cases = [
        (
            "Write to jo.doe+x@mail.example.org.",
            "Write to [e-mail address removed].",
        ),
        ("müller@klinik.de!", "[e-mail address removed]!"),
        (
            "a@b.co, c@d.co",
            "[e-mail address removed], [e-mail address removed]",
        ),
        (
            "Call +44 20 7946 0000 now",
            "Call [phone number removed] now",
        ),
        ("Call (555) 123-4567.", "Call [phone number removed]."),
        ("555.123.4567", "[phone number removed]"),
        (
            "Take 2 555 123 4567 10 mg",
            "Take 2 [phone number removed] 10 mg",
        ),
        ("Tel.01 23 45 67 89", "Tel.[phone number removed]"),
        ("+4915112345678", "[phone number removed]"),
        ("Patient MRN12345678x", "Patient MRN[number removed]x"),
        ("4111 1111 1111 1111", "[number removed]"),
        ("(1234567)", "[number removed])"),
    ];
    for (text, expected) in cases {
        assert_eq!(clean(text), expected);
    }
}

#[test]
fn medical_figures_stay() {
    for text in [
        "",
        "Take 500 mg (or 250-1000 mg) 2 to 3 times a day.",
        "150,000-450,000 or 150000-450000 platelets per microlitre",
        "120/80 mmHg, pH 7.35-7.45, 37.5 °C, 4.5-11.0 x 10^9/L",
        "In 2019-2020, on 2024-01-15 10:30, 12.05.2021.",
        "1. Rest 2. Drink (water) 3. Sleep",
        "ask @ the desk, me@home, @you, a@b.1, x@.de",
        "HbA1c 6.5 %, B12, COVID-19, IL-6, (+) and (-)",
        "1 000 000 people, 100 000",
        "喘息は慢性の病気です。",
    ] {
        assert_eq!(clean(text), text);
    }
}

#[test]
fn only_the_word_in_progress_is_held_back() {
    let mut redactor = Redactor::new(config("{}").rules);
    let chunks = [
        "Asthma", " is", " a", " 12", "0 mg", ". Call ", "555 123", " 4567", " or",
    ];
    let shown = chunks.map(|chunk| redactor.push(chunk));
    let expected = [
        "",
        "Asthma ",
        "is ",
        "a ",
        "120 ",
        "mg. Call ",
        "",
        "",
        "[phone number removed] ",
    ];
    assert_eq!(shown, expected);
    assert_eq!(redactor.finish(), "or");
}

#[test]
fn text_without_words_is_not_held_back() {
    let mut redactor = Redactor::new(config("{}").rules);
    assert_eq!(redactor.push("喘息は"), "喘息は");
    let off = r#"{"emails": false, "phones": false, "min_digits": 0}"#;
    let mut redactor = Redactor::new(config(off).rules);
    for chunk in ["jo@x", ".org +44 20 7946", " 0000 ("] {
        assert_eq!(redactor.push(chunk), chunk);
    }
}

#[test]
fn each_rule_can_be_switched_off() {
    let text = "jo@x.org +44 20 7946 0000 or 12345678";
    let with = |json: &str| redact(&config(json), &[text]);
    assert!(with(r#"{"emails": false}"#).starts_with("jo@x.org [phone"));
    assert!(with(r#"{"phones": false}"#).contains("+44 20 7946 0000 or [number"));
    assert!(with(r#"{"min_digits": 9}"#).ends_with(" 12345678"));
}

#[test]
fn what_never_ends_is_held_back_no_longer_than_an_address() {
    for unit in ["a", "1", "1 ", "a@", "é"] {
        let mut redactor = Redactor::new(config("{}").rules);
        let mut pushed = 0;
        let mut shown = 0;
        for _ in 0..3000 {
            pushed += unit.len();
            shown += redactor.push(unit).len();
            // A placeholder is shorter than what it stands for.
            assert!(
                unit == "1" || pushed - shown <= 2 * 320,
                "{unit}: {pushed} in, {shown} out"
            );
        }
    }
}

#[test]
fn borders_of_chunks_do_not_matter() {
    let mut state = 3_u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let bits = [
        "a", "é", "jo", "@", ".", "-", "+", "(", ")", " ", "0", "1", "555", "4567", "x.org", "\n",
        "息", "12345678", "\u{a0}",
    ];
    let long = ["z".repeat(250), "9".repeat(250)];
    let config = config("{}");
    for round in 0..30_000 {
        let mut text: String = (0..random(16)).map(|_| bits[random(bits.len())]).collect();
        if round % 10 == 0 {
            text = format!("{}{text}{}", long[random(2)], long[random(2)]);
        }
        let whole = redact(&config, &[&text]);
        let single: Vec<String> = text.chars().map(String::from).collect();
        let single: Vec<&str> = single.iter().map(String::as_str).collect();
        assert_eq!(redact(&config, &single), whole, "{text:?}");
        let border = random(text.len() + 1);
        if text.is_char_boundary(border) {
            assert_eq!(
                redact(&config, &[&text[..border], &text[border..]]),
                whole,
                "{text:?} at {border}"
            );
        }
    }
}

#[test]
fn the_disclaimer_closes_finished_answers() {
    let config = config(r#"{"disclaimer": "Not medical advice."}"#);
    assert_eq!(closing(&config, Finish::Stop), "\n\nNot medical advice.");
    assert_eq!(closing(&config, Finish::Length), "\n\nNot medical advice.");
    for why in [Finish::Filtered, Finish::Cancelled, Finish::Error] {
        assert_eq!(closing(&config, why), "", "{why:?}");
    }
}

#[test]
fn config_errors_name_the_key() {
    let error = Config::new(r#"{"email": true}"#).err().expect("a typo");
    let keys = r#""disclaimer", "emails", "min_digits", "phones""#;
    assert_eq!(
        error,
        format!("config.email: unknown key, expected one of {keys}")
    );
}

#[test]
fn self_test_passes_for_every_config() {
    for json in [
        "{}",
        r#"{"emails": false}"#,
        r#"{"phones": false}"#,
        r#"{"min_digits": 0}"#,
    ] {
        assert_eq!(config(json).self_test(), Ok(()), "{json}");
    }
}
