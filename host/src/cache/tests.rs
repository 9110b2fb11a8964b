use super::*;
use crate::types::{Sampling, SessionId, TenantId};

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
    let first = sampling(1);
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

/// Four writers at once; what is held is measured entry by entry while they write.
#[test]
fn the_bytes_held_stay_under_the_limit_under_load() {
    const LIMIT: u64 = 200_000;
    let cache = Cache::new(&Settings {
        max_bytes: LIMIT,
        ..Settings::default()
    });
    let held = cache.0.as_ref().unwrap();
    let measure = || held.iter().map(|(_, entry)| bytes(&entry)).sum::<usize>() as u64;
    // Each writer may have put in one answer for which room is being made.
    let under_way = 4 * bytes(&entry(2_000)) as u64;
    std::thread::scope(|scope| {
        let writers = [0_u8, 1, 2, 3].map(|writer| {
            let cache = &cache;
            scope.spawn(move || {
                for n in 0..2_000_u16 {
                    let mut key = [writer; 32];
                    key[..2].copy_from_slice(&n.to_le_bytes());
                    let text = "x".repeat(usize::from(n % 2_000));
                    cache.store(Key(key), answer(&text), Duration::from_secs(60));
                }
            })
        });
        while writers.iter().any(|writer| !writer.is_finished()) {
            let held = measure();
            assert!(held <= LIMIT + under_way, "{held} bytes");
        }
    });
    let held = measure();
    assert!(held > LIMIT / 2 && held <= LIMIT, "{held} bytes");
    assert_eq!(cache.bytes(), held, "what the metric tells");
}

fn entry(text: usize) -> Entry {
    Entry {
        answer: answer(&"x".repeat(text)),
        stored: Instant::now(),
        ttl: Duration::from_secs(1),
    }
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
