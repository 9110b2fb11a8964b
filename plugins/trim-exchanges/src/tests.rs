use super::*;
use types::Role;

/// `count` whole exchanges of 20 tokens and a new question of 10.
fn session(count: u32) -> Vec<Message> {
    (0..2 * count + 1)
        .map(|i| message(u64::from(i), i / 2))
        .collect()
}

fn message(id: u64, exchange: u32) -> Message {
    let role = if id.is_multiple_of(2) {
        Role::User
    } else {
        Role::Assistant
    };
    Message {
        id,
        role,
        tokens: 10,
        pinned: false,
        exchange,
    }
}

fn limits(exchanges: usize, slack: usize) -> Limits {
    Limits { exchanges, slack }
}

fn budget(max_tokens: u32, low_water: u32, previous_first: Option<u64>) -> Budget {
    Budget {
        max_tokens,
        low_water,
        per_message: 0,
        previous_first,
    }
}

const ROOMY: u32 = 100_000;

#[test]
fn exactly_the_last_exchanges_stay_by_default() {
    let limits = Limits::new("{}").expect("defaults");
    let roomy = budget(ROOMY, ROOMY, None);
    assert_eq!(trim(&limits, &roomy, &session(0)), Decision::KeepAll);
    assert_eq!(trim(&limits, &roomy, &session(3)), Decision::KeepAll);
    assert_eq!(trim(&limits, &roomy, &session(4)), Decision::KeepFrom(2));
    assert_eq!(trim(&limits, &roomy, &session(9)), Decision::KeepFrom(12));
}

#[test]
fn no_exchanges_means_no_history() {
    assert_eq!(
        trim(&limits(0, 0), &budget(ROOMY, ROOMY, None), &session(2)),
        Decision::KeepFrom(4)
    );
}

#[test]
fn slack_keeps_the_cut_for_some_turns() {
    let limits = limits(3, 2);
    let mut previous = None;
    let cuts: Vec<Decision> = (0..12)
        .map(|turn| {
            let cut = trim(&limits, &budget(ROOMY, ROOMY, previous), &session(turn));
            if let Decision::KeepFrom(id) = cut {
                previous = Some(id);
            }
            cut
        })
        .collect();
    let from = Decision::KeepFrom;
    let expected = [
        vec![Decision::KeepAll; 6],
        vec![from(6); 3],
        vec![from(12); 3],
    ]
    .concat();
    assert_eq!(cuts, expected);
}

#[test]
fn a_previous_cut_that_is_gone_is_forgotten() {
    let roomy = budget(ROOMY, ROOMY, Some(999));
    assert_eq!(trim(&limits(3, 0), &roomy, &session(2)), Decision::KeepAll);
    // The middle of an exchange is no place for a cut.
    let middle = budget(ROOMY, ROOMY, Some(3));
    assert_eq!(trim(&limits(3, 0), &middle, &session(3)), Decision::KeepAll);
}

#[test]
fn passing_the_budget_cuts_down_to_low_water() {
    // 7 messages of 10 tokens.
    let limits = limits(10, 0);
    assert_eq!(
        trim(&limits, &budget(70, 30, None), &session(3)),
        Decision::KeepAll
    );
    assert_eq!(
        trim(&limits, &budget(69, 30, None), &session(3)),
        Decision::KeepFrom(4)
    );
    assert_eq!(
        trim(&limits, &budget(69, 50, None), &session(3)),
        Decision::KeepFrom(2)
    );
    assert_eq!(
        trim(&limits, &budget(69, 90, None), &session(3)),
        Decision::KeepFrom(2)
    );
}

#[test]
fn what_a_message_costs_beside_its_tokens_counts() {
    let costly = Budget {
        per_message: 5,
        ..budget(70, 70, None)
    };
    assert_eq!(
        trim(&limits(10, 0), &costly, &session(3)),
        Decision::KeepFrom(4)
    );
}

#[test]
fn the_new_message_stays_even_if_it_is_too_long() {
    assert_eq!(
        trim(&limits(3, 0), &budget(5, 5, None), &session(2)),
        Decision::KeepFrom(4)
    );
    assert_eq!(
        trim(&limits(3, 0), &budget(5, 5, None), &session(0)),
        Decision::KeepAll
    );
}

#[test]
fn pinned_messages_count_but_are_never_the_cut() {
    let mut messages = session(4);
    messages[0].pinned = true;
    let roomy = budget(ROOMY, ROOMY, None);
    assert_eq!(
        trim(&limits(3, 0), &roomy, &messages),
        Decision::KeepFrom(2)
    );
    // 9 messages; the pinned one takes 10 of 60, the new one 10, so two exchanges fit.
    assert_eq!(
        trim(&limits(9, 0), &budget(60, 60, None), &messages),
        Decision::KeepFrom(4)
    );
}

#[test]
fn a_pinned_new_message_needs_no_history() {
    let mut messages = session(1);
    messages[2].pinned = true;
    assert_eq!(
        trim(&limits(0, 0), &budget(ROOMY, ROOMY, None), &messages),
        Decision::Keep(vec![2])
    );
}

#[test]
fn odd_transcripts() {
    let roomy = budget(ROOMY, ROOMY, None);
    assert_eq!(trim(&limits(3, 0), &roomy, &[]), Decision::KeepAll);
    let mut all_pinned = session(5);
    all_pinned.iter_mut().for_each(|m| m.pinned = true);
    assert_eq!(trim(&limits(3, 0), &roomy, &all_pinned), Decision::KeepAll);
    let huge = [
        Message {
            tokens: u32::MAX,
            ..message(0, 0)
        },
        Message {
            tokens: u32::MAX,
            ..message(1, 0)
        },
        message(2, 1),
    ];
    assert_eq!(
        trim(&limits(3, 0), &budget(u32::MAX, u32::MAX, None), &huge),
        Decision::KeepFrom(2)
    );
}

/// Many random sessions: what the host will verify, and what makes a cut a good one.
#[test]
fn every_decision_keeps_the_promises() {
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..20_000 {
        let mut exchange = 0;
        let messages: Vec<Message> = (0..1 + random(14))
            .map(|id| {
                exchange += random(2) as u32;
                let tokens = random(50) as u32;
                Message {
                    tokens,
                    pinned: random(8) == 0,
                    ..message(id, exchange)
                }
            })
            .collect();
        let newest = &messages[messages.len() - 1];
        let limits = limits(random(5) as usize, random(3) as usize);
        let max_tokens = random(400) as u32;
        let previous = (random(2) == 0).then(|| random(14));
        let budget = Budget {
            per_message: 3,
            ..budget(max_tokens, max_tokens * 3 / 4, previous)
        };

        let kept: Vec<&Message> = match trim(&limits, &budget, &messages) {
            Decision::KeepAll => messages.iter().collect(),
            Decision::KeepFrom(first) => {
                assert!(messages.iter().any(|m| m.id == first && !m.pinned));
                messages
                    .iter()
                    .filter(|m| m.pinned || m.id >= first)
                    .collect()
            }
            Decision::Keep(ids) => messages.iter().filter(|m| ids.contains(&m.id)).collect(),
        };
        assert!(kept.iter().any(|m| m.id == newest.id));
        assert_eq!(
            kept.iter().filter(|m| m.pinned).count(),
            messages.iter().filter(|m| m.pinned).count()
        );
        let history: Vec<u32> = kept
            .iter()
            .filter(|m| !m.pinned && (newest.pinned || m.exchange != newest.exchange))
            .map(|m| m.exchange)
            .collect();
        for number in &history {
            let whole = messages
                .iter()
                .filter(|m| !m.pinned && m.exchange == *number)
                .count();
            assert_eq!(
                history.iter().filter(|n| *n == number).count(),
                whole,
                "exchange {number} was split"
            );
        }
        let distinct = history.chunk_by(|a, b| a == b).count();
        assert!(distinct <= limits.exchanges + limits.slack);
        let cost: u32 = kept.iter().map(|m| m.tokens + 3).sum();
        assert!(cost <= max_tokens || history.is_empty());
    }
}

#[test]
fn self_test_passes_for_every_config() {
    for config in [
        "{}",
        r#"{"exchanges": 0}"#,
        r#"{"exchanges": 1000, "slack": 1000}"#,
    ] {
        assert_eq!(
            Limits::new(config).expect(config).self_test(),
            Ok(()),
            "{config}"
        );
    }
    let error = Limits::new(r#"{"exchange": 3}"#).err().expect("a typo");
    assert_eq!(
        error,
        r#"config.exchange: unknown key, expected one of "exchanges", "slack""#
    );
}
