use super::*;

fn sampling(seed: u64) -> Sampling {
    Sampling {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        repeat_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
        grammar: None,
        seed,
    }
}

fn answer(text: &str) -> Cached {
    Cached {
        text: text.into(),
        tokens: Arc::from([7]),
        finish: Finish::Stop,
        prompt_tokens: 3,
        output_tokens: 1,
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
    let (first, second) = (sampling(1), sampling(2));
    let mut warm = sampling(1);
    warm.temperature = 0.8;
    let plan = [("plan".to_owned(), "gold".to_owned())];
    let stop = ["\n".to_owned()];
    let (joined, split) = (["ab".to_owned()], ["a".to_owned(), "b".to_owned()]);
    let base = Identity {
        audience: Audience::Session(&a, &s),
        model: "m",
        policies: "p",
        attributes: &[],
        sampling: &first,
        seeded: true,
        max_tokens: 5,
        stop: &[],
        basis: Basis::Prompt(&[1, 2]),
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
            attributes: &plan,
            ..base
        },
        Identity {
            policies: "q",
            ..base
        },
        Identity {
            sampling: &second,
            ..base
        },
        Identity {
            sampling: &warm,
            ..base
        },
        Identity {
            seeded: false,
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
            basis: Basis::Prompt(&[1, 2, 3]),
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

#[test]
fn an_answer_is_found_until_it_is_too_old() {
    let cache = Cache::new(&Settings::default());
    let key = Key([1; 32]);
    cache.store(key, answer("yes"), Duration::from_secs(60));
    assert_eq!(&*cache.lookup(&key, Duration::MAX).unwrap().text, "yes");
    assert!(cache.lookup(&Key([2; 32]), Duration::MAX).is_none());
    assert!(cache.lookup(&key, Duration::ZERO).is_none());
    cache.store(key, answer("yes"), Duration::ZERO);
    assert!(cache.lookup(&key, Duration::MAX).is_none());
}

#[test]
fn the_bytes_held_stay_under_the_limit() {
    let cache = Cache::new(&Settings {
        max_bytes: 10_000,
        ..Settings::default()
    });
    for n in 0..=255_u8 {
        cache.store(
            Key([n; 32]),
            answer(&"x".repeat(500)),
            Duration::from_secs(60),
        );
    }
    cache.0.as_ref().unwrap().run_pending_tasks();
    assert!(
        cache.bytes() > 0 && cache.bytes() <= 10_000,
        "{} bytes",
        cache.bytes()
    );
}

#[test]
fn off_means_off() {
    let cache = Cache::new(&Settings {
        store: Store::Off,
        ..Settings::default()
    });
    cache.store(Key([1; 32]), answer("yes"), Duration::from_secs(60));
    assert!(cache.lookup(&Key([1; 32]), Duration::MAX).is_none());
}
