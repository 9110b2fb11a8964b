//! Draws, cuts, penalties and grammars on made-up logits.

use super::*;

fn draw(how: Sampling, logits: &[f32]) -> Token {
    Sampler::new(how, None, &[]).draw(logits).unwrap()
}

/// How often each of the tokens comes up in 4000 draws.
fn shares(how: &Sampling, logits: &[f32]) -> Vec<f64> {
    let mut sampler = Sampler::new(how.clone(), None, &[]);
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..4000 {
        counts[sampler.draw(logits).unwrap() as usize] += 1.0 / 4000.0;
    }
    counts
}

#[test]
fn greedy_takes_the_largest_after_bias_and_penalties() {
    let logits = [0.5, 2.0, 1.9];
    assert_eq!(draw(Sampling::greedy(), &logits), 1);
    assert_eq!(
        draw(
            Sampling {
                logit_bias: vec![(0, 5.0), (99, 1.0), (-3, 1.0)],
                ..Sampling::greedy()
            },
            &logits
        ),
        0
    );
    let how = Sampling {
        repeat_penalty: 1.2,
        ..Sampling::greedy()
    };
    assert_eq!(Sampler::new(how, None, &[1]).draw(&logits).unwrap(), 2);
    let how = Sampling {
        frequency_penalty: 0.2,
        ..Sampling::greedy()
    };
    assert_eq!(Sampler::new(how, None, &[1]).draw(&logits).unwrap(), 2);
}

#[test]
fn draws_follow_the_softmax() {
    let how = Sampling {
        temperature: 1.0,
        ..Sampling::greedy()
    };
    let shares = shares(&how, &[0.0, (2.0_f32).ln(), (5.0_f32).ln()]);
    for (share, right) in shares.iter().zip([0.125, 0.25, 0.625]) {
        assert!((share - right).abs() < 0.03, "{shares:?}");
    }
}

#[test]
fn each_cut_removes_the_tail() {
    let logits = [
        (0.5_f32).ln(),
        (0.3_f32).ln(),
        (0.15_f32).ln(),
        (0.05_f32).ln(),
    ];
    let zeroes = |how| {
        shares(&how, &logits)
            .iter()
            .filter(|&&share| share == 0.0)
            .count()
    };
    let hot = Sampling {
        temperature: 1.0,
        ..Sampling::greedy()
    };
    assert_eq!(
        zeroes(Sampling {
            top_k: 2,
            ..hot.clone()
        }),
        2
    );
    assert_eq!(
        zeroes(Sampling {
            top_p: 0.75,
            ..hot.clone()
        }),
        2
    );
    assert_eq!(
        zeroes(Sampling {
            min_p: 0.2,
            ..hot.clone()
        }),
        1
    );
    assert_eq!(
        zeroes(Sampling { top_p: 0.0, ..hot }),
        3,
        "one token is always left"
    );
}

#[test]
fn a_seed_fixes_the_answer() {
    let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.37).sin()).collect();
    let run = |seed| {
        let how = Sampling {
            temperature: 1.0,
            seed,
            ..Sampling::greedy()
        };
        let mut sampler = Sampler::new(how, None, &[]);
        (0..20)
            .map(|_| sampler.draw(&logits).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

/// Allows even tokens only.
struct Even;

impl Grammar for Even {
    fn filter(&mut self, candidates: &mut Vec<Candidate>) {
        for candidate in candidates.iter_mut().filter(|c| c.token % 2 == 1) {
            candidate.logit = f32::NEG_INFINITY;
        }
    }
    fn accept(&mut self, token: Token) -> Result<(), String> {
        if token % 2 == 0 {
            Ok(())
        } else {
            Err("odd".into())
        }
    }
}

#[test]
fn a_grammar_is_obeyed() {
    let mut sampler = Sampler::new(Sampling::greedy(), Some(Box::new(Even)), &[]);
    assert_eq!(sampler.draw(&[0.1, 9.0, 0.3, 8.0]), Ok(2));
    let only_odd = [f32::NEG_INFINITY, 9.0];
    assert!(sampler.draw(&only_odd).is_err());
}
