//! How far the logits of a row depend on the rows beside it.

use super::*;
use crate::engine::scheduler::{Op, Row};
use crate::engine::worker::Device as _;

#[path = "../../../../tests/engine/tiny.rs"]
mod tiny;

/// Largest difference of a logit, as a share of the largest logit, between a step with one row and
/// one with four: sums are added up in another order, and K and V are rounded to 16 bits after it.
const TOLERANCE: f32 = 0.01;

/// Logits after each token of `streams`, all of them computed together.
fn forced(device: &mut Device<'_>, streams: &[Vec<Token>]) -> Vec<Vec<Vec<f32>>> {
    let mut all = vec![Vec::new(); streams.len()];
    for at in 0..streams[0].len() {
        let rows: Vec<_> = (0..streams.len())
            .map(|seq| Row {
                seq: seq as i32,
                pos: at as u32,
                token: streams[seq][at],
                logits: true,
            })
            .collect();
        device.step(&rows).unwrap();
        for (row, logits) in all.iter_mut().enumerate() {
            logits.push(device.logits(row).to_vec());
        }
    }
    for seq in 0..streams.len() {
        device
            .apply(Op::Remove {
                seq: seq as i32,
                from: 0,
            })
            .unwrap();
    }
    all
}

/// Logits after each token of one stream, read in pieces of `piece` tokens.
fn read(device: &mut Device<'_>, stream: &[Token], piece: usize) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for (at, tokens) in stream.chunks(piece).enumerate() {
        let rows: Vec<_> = tokens
            .iter()
            .enumerate()
            .map(|(i, &token)| Row {
                seq: 0,
                pos: (at * piece + i) as u32,
                token,
                logits: true,
            })
            .collect();
        device.step(&rows).unwrap();
        all.extend((0..rows.len()).map(|row| device.logits(row).to_vec()));
    }
    device.apply(Op::Remove { seq: 0, from: 0 }).unwrap();
    all
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

/// Each stream alone against all together.
fn alone_and_together(file: &Path, data: &Path, own: bool) -> f32 {
    on(file, data, own, |device| {
        let together = forced(device, &streams());
        let differences = streams()
            .into_iter()
            .zip(&together)
            .map(|(stream, beside)| {
                let alone = forced(device, &[stream]);
                difference(&alone[0], beside)
            });
        differences.fold(0.0, f32::max)
    })
}

#[test]
fn four_slots_give_the_logits_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, weights| {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        tiny::write(&folder.path().join(name), weights)
    };
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/stent-demo.gguf");
    for (file, own) in [
        (write("four", tiny::Weights::Quantised), false),
        (write("k", tiny::Weights::KQuants), cpu::own_possible()),
        (demo, cpu::own_possible()),
    ] {
        let worst = alone_and_together(&file, folder.path(), own);
        assert!(
            worst < TOLERANCE,
            "{}: largest difference {worst}",
            file.display()
        );
    }
}

/// ggml adds attention up in half precision below 64 rows and in full from there on. A thousandth
/// there tips the rounding of many activations to eight bits: three hundredths of the logits.
#[test]
fn pieces_of_a_prompt_give_the_logits_of_its_tokens_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = tiny::write(folder.path(), tiny::Weights::KQuants);
    on(&file, folder.path(), cpu::own_possible(), |device| {
        let stream = &streams()[0];
        let one = read(device, stream, 1);
        for (piece, tolerance) in [(2, 0.01), (3, 0.01), (16, 0.02), (50, 0.02), (64, 0.06)] {
            let off = spread(&one, &read(device, stream, piece));
            assert!(off < tolerance, "pieces of {piece}: {off}");
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
            forced(device, &streams())
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
