//! How likely the model held a token, whatever a request's own ways of drawing made of it.

use crate::types::Token;

/// A token and the natural logarithm of its probability.
pub type Ranked = (Token, f32);

/// The drawn token, and the likeliest ones in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub drawn: Ranked,
    pub top: Vec<Ranked>,
}

/// The softmax of the logits as the model gave them, at temperature 1: biases, penalties, grammar
/// and cuts are the request's, and are not in it.
pub fn told(logits: &[f32], drawn: Token, most: usize) -> Told {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - highest).exp())
        .sum();
    let all = f64::from(highest) + sum.ln();
    // No JSON has minus infinity; OpenAI writes -9999 for what cannot be.
    let logprob = |logit: f32| ((f64::from(logit) - all) as f32).max(-9999.0);
    let of = |token: Token| {
        let logit = usize::try_from(token).ok().and_then(|at| logits.get(at));
        (token, logit.map_or(-9999.0, |&logit| logprob(logit)))
    };
    Told {
        drawn: of(drawn),
        top: likeliest(logits, most).into_iter().map(of).collect(),
    }
}

/// The `most` largest, the largest first; among equals the one with the lower number.
fn likeliest(logits: &[f32], most: usize) -> Vec<Token> {
    let mut best: Vec<usize> = Vec::with_capacity(most + 1);
    for (at, &logit) in logits.iter().enumerate() {
        if best.len() == most && best.last().is_none_or(|&last| logits[last] >= logit) {
            continue;
        }
        let place = best.partition_point(|&other| logits[other] >= logit);
        best.insert(place, at);
        best.truncate(most);
    }
    best.into_iter().map(|at| at as Token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_softmax() {
        let logits = [1.0_f32, 3.0, 2.0, 3.0];
        let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
        let found = told(&logits, 2, 3);
        assert!((found.drawn.1.exp() - 2_f32.exp() / sum).abs() < 1e-6);
        let tokens: Vec<Token> = found.top.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, [1, 3, 2]);
        let all = told(&logits, 0, 9);
        let total: f32 = all.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((total - 1.0).abs() < 1e-5 && all.top.len() == 4, "{all:?}");
        assert!(told(&logits, 0, 0).top.is_empty());
    }

    #[test]
    fn what_cannot_be_has_a_number_too() {
        let found = told(&[0.0, f32::NEG_INFINITY], 1, 2);
        assert_eq!(found.drawn, (1, -9999.0));
        assert!(found.top[0].1.abs() < 1e-6);
    }
}
