//! How far the logits of a row depend on the rows beside it.

use super::*;
use crate::engine::scheduler::{Op, Row, SeqId};
use crate::engine::worker::Device as _;

#[path = "../../../../tests/engine/tiny.rs"]
mod tiny;

/// Largest difference of a logit, as a share of the largest logit, between a step with one row and
/// one with four: sums are added up in another order, and K and V are rounded to 16 bits after it.
const TOLERANCE: f32 = 0.01;

/// The same where attention is added up in another precision and activations are rounded to eight bits: a
/// thousandth there tips the rounding of many of them.
const LARGE: f32 = 0.15;

/// Computes all streams together from token `from` on, `piece` tokens of each in a step: the logits after
/// each token of each.
fn forced(
    device: &mut Device<'_>,
    streams: &[&[Token]],
    from: usize,
    piece: usize,
) -> Vec<Vec<Vec<f32>>> {
    let mut all = vec![Vec::new(); streams.len()];
    let len = streams[0].len();
    for begin in (from..len).step_by(piece) {
        let row = |(seq, stream): (usize, &&[Token]), at: usize| Row {
            seq: seq as SeqId,
            pos: at as u32,
            token: stream[at],
            logits: true,
        };
        let places = begin..len.min(begin + piece);
        let rows: Vec<_> = streams
            .iter()
            .enumerate()
            .flat_map(|stream| places.clone().map(move |at| row(stream, at)))
            .collect();
        device.step(&rows).unwrap();
        for (at, row) in rows.iter().enumerate() {
            all[row.seq as usize].push(device.logits(at).to_vec());
        }
    }
    all
}

/// The same from the first token on; the cache is empty before and after.
fn whole(device: &mut Device<'_>, streams: &[&[Token]], piece: usize) -> Vec<Vec<Vec<f32>>> {
    let all = forced(device, streams, 0, piece);
    empty(device);
    all
}

fn empty(device: &mut Device<'_>) {
    for seq in 0..4 {
        device.apply(Op::Remove { seq, from: 0 }).unwrap();
    }
}

/// Runs on a model, with Stent's kernels or ggml's.
fn on<T>(file: &Path, data: &Path, own: bool, run: impl FnOnce(&mut Device<'_>) -> T) -> T {
    let settings = Settings {
        model: file.into(),
        mlock: false,
        n_ctx: 256,
        n_batch: 64,
        n_ubatch: 64,
        max_tokens: 8,
        ..Settings::default()
    };
    let backend = backend(data).unwrap();
    let params = LlamaModelParams::default();
    let read = || load(backend, &settings.model, &params).unwrap();
    let model = Arc::new(if own {
        cpu::with_own(false, read).0
    } else {
        read()
    });
    let limits = limits(&settings, &model);
    run(&mut Device::open(backend, &model, &limits, shape(&settings)).unwrap())
}

fn streams() -> [Vec<Token>; 4] {
    let mut random = tiny::Random(5);
    [(); 4].map(|()| {
        let tokens = (0..100).map(|_| 3 + (random.next() % 256) as Token);
        tokens.collect()
    })
}

/// The largest difference between the logits of two computations, as a share of the largest logit.
fn difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    a.iter().zip(b).fold(0.0, |worst, (a, b)| {
        let largest = a.iter().fold(0_f32, |m, x| m.max(x.abs()));
        let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        worst.max(off.fold(0.0, f32::max) / largest)
    })
}

/// Each stream alone, token by token, against all together, `piece` tokens of each in a step.
fn alone_and_together(file: &Path, data: &Path, own: bool, piece: usize) -> f32 {
    on(file, data, own, |device| {
        let streams = streams();
        let streams = streams.each_ref().map(Vec::as_slice);
        let together = whole(device, &streams, piece);
        let differences = streams.iter().zip(&together).map(|(stream, beside)| {
            let alone = whole(device, &[stream], 1);
            difference(&alone[0], beside)
        });
        differences.fold(0.0, f32::max)
    })
}

/// Sixteen tokens of four streams are the 64 rows from which on ggml adds attention up in full precision.
#[test]
fn four_slots_give_the_logits_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, weights| {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        tiny::write(&folder.path().join(name), weights)
    };
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/stent-demo.gguf");
    let own = cpu::own_possible();
    let exact = if own { 0.0 } else { TOLERANCE };
    for (file, own, piece, tolerance) in [
        (write("four", tiny::Weights::Quantised), false, 1, TOLERANCE),
        (write("float", tiny::Weights::Float), false, 1, TOLERANCE),
        (write("floats", tiny::Weights::Float), false, 16, TOLERANCE),
        (write("k", tiny::Weights::KQuants), own, 1, exact),
        (write("ks", tiny::Weights::KQuants), own, 15, exact),
        (write("kss", tiny::Weights::KQuants), own, 16, LARGE),
        (demo.clone(), own, 1, exact),
        (demo.clone(), own, 15, exact),
        (demo, own, 16, LARGE),
    ] {
        let worst = alone_and_together(&file, folder.path(), own, piece);
        let file = file.display();
        assert!(worst <= tolerance, "{file}, {piece} tokens a step: {worst}");
    }
}

/// What the comparison above is worth: a single cell of somebody else's.
#[test]
fn a_foreign_cell_would_be_seen() {
    let folder = tempfile::tempdir().unwrap();
    let file = tiny::write(folder.path(), tiny::Weights::KQuants);
    on(&file, folder.path(), cpu::own_possible(), |device| {
        let [own, foreign, ..] = streams();
        let right = whole(device, &[&own], 1).remove(0);
        forced(device, &[&own[..50], &foreign[..50]], 0, 1);
        device
            .apply(Op::Share {
                from: 1,
                to: 0,
                len: 1,
            })
            .unwrap();
        let wrong = forced(device, &[&own], 50, 1).remove(0);
        let off = difference(&right[50..], &wrong);
        assert!(off > 2.0 * LARGE, "{off}");
        empty(device);
        // Its own first token again, in another's cell, is what it had.
        forced(device, &[&own[..50], &own[..50]], 0, 1);
        device
            .apply(Op::Adopt {
                from: 1,
                to: 0,
                len: 32,
            })
            .unwrap();
        let adopted = forced(device, &[&own], 50, 1).remove(0);
        let off = difference(&right[50..], &adopted);
        assert!(off < LARGE, "{off}");
    });
}

/// Below 64 rows the size of a piece changes no bit, with Stent's kernels.
#[test]
fn pieces_of_a_prompt_give_the_logits_of_its_tokens_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = tiny::write(folder.path(), tiny::Weights::KQuants);
    let own = cpu::own_possible();
    on(&file, folder.path(), own, |device| {
        let stream = &streams()[0];
        let one = whole(device, &[stream], 1).remove(0);
        for piece in [2, 3, 16, 50, 63, 64] {
            let pieces = whole(device, &[stream], piece).remove(0);
            let tolerance = if own && piece < 64 { 0.0 } else { LARGE };
            let off = difference(&one, &pieces);
            assert!(off <= tolerance, "pieces of {piece}: {off}");
        }
    });
}

#[test]
fn a_file_tells_whether_its_weights_are_for_the_own_kernels() {
    let folder = tempfile::tempdir().unwrap();
    for (weights, are) in [
        (tiny::Weights::Float, false),
        (tiny::Weights::Quantised, false),
        (tiny::Weights::KQuants, true),
    ] {
        let header = gguf::read(&tiny::write(folder.path(), weights)).unwrap();
        assert_eq!(header.k_quants, are);
    }
}

/// In a whole graph, against the same weights as floats: what rounding activations to eight bits costs
/// must not be more than ggml's own kernels take.
#[test]
fn own_kernels_are_as_exact_as_ggmls() {
    if !cpu::own_possible() {
        eprintln!("not checked: the processor has no AVX2");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let logits = |weights, own| {
        let file = tiny::write(folder.path(), weights);
        on(&file, folder.path(), own, |device| {
            let streams = streams();
            whole(device, &streams.each_ref().map(Vec::as_slice), 1)
        })
    };
    let exact = logits(tiny::Weights::Exact, false);
    let off = |found: &[Vec<Vec<f32>>]| -> f32 {
        let each = exact.iter().zip(found);
        each.map(|(exact, found)| spread(exact, found)).sum::<f32>() / 4.0
    };
    let own = off(&logits(tiny::Weights::KQuants, true));
    let ggmls = off(&logits(tiny::Weights::KQuants, false));
    assert!(own < 1.2 * ggmls, "own {own}, ggml's {ggmls}");
    // Other sums in another order: if nothing differed, both were the same kernels.
    assert_ne!(own, ggmls);
}

/// The root mean square of the differences, as a share of that of the logits.
fn spread(exact: &[Vec<f32>], found: &[Vec<f32>]) -> f32 {
    let pairs = || exact.iter().flatten().zip(found.iter().flatten());
    let off: f32 = pairs().map(|(a, b)| (a - b).powi(2)).sum();
    let all: f32 = pairs().map(|(a, _)| a.powi(2)).sum();
    (off / all).sqrt()
}
