use proptest::prelude::*;

use super::*;
use crate::types::{Sampling, SessionId, TenantId};

fn sampling(seed: u64) -> Sampling {
    Sampling {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        seed,
        ..Sampling::greedy()
    }
}

pub fn answer(text: &str) -> Cached {
    Cached {
        text: text.into(),
        tokens: Arc::from([7]),
        finish: Finish::Stop,
        prompt_tokens: 3,
        output_tokens: 1,
        dropped: 2,
    }
}

/// Every field on its own makes another key.
#[test]
fn nothing_that_matters_is_left_out_of_the_key() {
    let (a, b) = (TenantId::new("a"), TenantId::new("b"));
    let (s, t) = (
        SessionId::parse("s").unwrap(),
        SessionId::parse("t").unwrap(),
    );
    let first = sampling(1);
    let mut warm = sampling(1);
    warm.temperature = 0.8;
    let plan = [("plan".to_owned(), "gold".to_owned())];
    let stop = ["\n".to_owned()];
    let (joined, split) = (["ab".to_owned()], ["a".to_owned(), "b".to_owned()]);
    let base = Identity {
        audience: Audience::Session(&a, &s),
        model: "m",
        name: "tiny",
        context: 8192,
        low_water: None,
        policies: "p",
        attributes: &[],
        streaming: true,
        sampling: &first,
        draw: Draw::Seed(1),
        max_tokens: 5,
        stop: &[],
        basis: Basis::Prompt {
            tokens: &[1, 2],
            stop: &[],
        },
    };
    let others = [
        Identity {
            audience: Audience::Session(&b, &s),
            ..base
        },
        Identity {
            audience: Audience::Session(&a, &t),
            ..base
        },
        Identity {
            audience: Audience::Tenant(&a),
            ..base
        },
        Identity {
            audience: Audience::Everybody,
            ..base
        },
        Identity { model: "n", ..base },
        Identity {
            name: "small",
            ..base
        },
        Identity {
            context: 4096,
            ..base
        },
        Identity {
            low_water: Some(75),
            ..base
        },
        Identity {
            low_water: Some(74),
            ..base
        },
        Identity {
            attributes: &plan,
            ..base
        },
        Identity {
            policies: "q",
            ..base
        },
        Identity {
            draw: Draw::Seed(2),
            ..base
        },
        Identity {
            draw: Draw::Greedy,
            ..base
        },
        Identity {
            streaming: false,
            ..base
        },
        Identity {
            sampling: &warm,
            ..base
        },
        Identity {
            draw: Draw::Derived,
            ..base
        },
        Identity {
            max_tokens: 6,
            ..base
        },
        Identity {
            stop: &stop,
            ..base
        },
        Identity {
            basis: Basis::Prompt {
                tokens: &[1, 2, 3],
                stop: &[],
            },
            ..base
        },
        Identity {
            basis: Basis::Prompt {
                tokens: &[1, 2],
                stop: &stop,
            },
            ..base
        },
        Identity {
            basis: Basis::Parts(&joined),
            ..base
        },
        Identity {
            basis: Basis::Parts(&split),
            ..base
        },
    ];
    let mut keys: Vec<Key> = others.iter().map(Identity::key).collect();
    keys.push(base.key());
    assert_eq!(base.key(), base.key());
    let distinct: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
}

/// What both stores promise is held in tests/cache/stores.rs; these need no runtime.
#[tokio::test]
async fn off_means_off() {
    let settings = Settings {
        store: Store::Off,
        ..Settings::default()
    };
    let cache = Cache::open(&settings, Keys::none()).unwrap();
    let (key, minute) = (Key([1; 32]), Duration::from_secs(60));
    cache.store(key, answer("yes"), minute).await.unwrap();
    assert_eq!(cache.lookup(&key, Duration::MAX).await, Ok(None));
    assert!(cache.is_off() && cache.trouble().is_none());
}

#[test]
fn a_store_is_read_and_shown_without_its_password() {
    let read = |store: &str| toml::from_str::<Settings>(&format!("store = {store:?}"));
    assert_eq!(read("off").unwrap().store, Store::Off);
    let redis = read("redis://:hunter2@cache.example/1").unwrap();
    let shown = toml::to_string(&redis).unwrap();
    assert!(
        shown.contains("redis://cache.example:6379/1") && shown.contains("50ms"),
        "{shown}"
    );
    let error = read("disk").unwrap_err().to_string();
    assert!(error.contains("expected \"memory\", \"off\""), "{error}");
    let slow = Settings {
        timeout: Duration::from_secs(120),
        ..Settings::default()
    };
    let error = slow.check().unwrap_err();
    assert!(
        error.starts_with("cache.timeout: 2m, expected 1ms to 1m"),
        "{error}"
    );
}

/// Names and parts as people and policies may choose them: also those that look like other fields.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-b]{0,2}",
        "(tenant|session|everybody|parts)",
        "(a|b|/|\0|\u{1}){0,4}"
    ]
}

fn key_of(audience: Audience<'_>, parts: &[String]) -> Key {
    Identity {
        audience,
        model: "m",
        name: "tiny",
        context: 8192,
        low_water: Some(75),
        policies: "p",
        attributes: &[],
        streaming: true,
        sampling: &sampling(1),
        draw: Draw::Derived,
        max_tokens: 5,
        stop: &[],
        basis: Basis::Parts(parts),
    }
    .key()
}

proptest! {
    /// A policy chooses the parts alone: no choice of them leads to what another audience has.
    #[test]
    fn no_parts_reach_another_audience(
        tenants in [name(), name()],
        session in "[a-b.]{1,3}",
        others in [prop::collection::vec(name(), 1..4), prop::collection::vec(name(), 1..4)],
        kinds in [0..3_usize, 0..3_usize],
    ) {
        let tenants = tenants.each_ref().map(|name| TenantId::new(name));
        let session = SessionId::parse(&session).unwrap();
        let audience = |at: usize| match kinds[at] {
            0 => Audience::Session(&tenants[at], &session),
            1 => Audience::Tenant(&tenants[at]),
            _ => Audience::Everybody,
        };
        let same_audience = kinds[0] == kinds[1] && (kinds[0] == 2 || tenants[0] == tenants[1]);
        let [one, two] = [0, 1].map(|at| key_of(audience(at), &others[at]));
        prop_assert_eq!(one == two, same_audience && others[0] == others[1]);
        // The same parts, for certain.
        let same = key_of(audience(1), &others[0]);
        prop_assert_eq!(one == same, same_audience);
    }
}
