//! How far the logits of a row depend on the rows beside it.

use super::*;
use crate::engine::scheduler::{Op, Row};
use crate::engine::worker::Device as _;

#[path = "../../../../tests/engine/tiny.rs"]
#[expect(dead_code, reason = "the integration tests use all of it")]
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

/// The largest difference between streams computed together and each alone, as a share of the
/// largest logit.
fn largest_difference(file: &Path, data: &Path) -> f32 {
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
    let model = Arc::new(load(backend, &settings.model, &params).unwrap());
    let limits = limits(&settings, &model);
    let mut device = Device::open(backend, &model, &limits, shape(&settings)).unwrap();
    let mut random = tiny::Random(5);
    let mut stream = || {
        (0..100)
            .map(|_| 3 + (random.next() % 256) as Token)
            .collect::<Vec<_>>()
    };
    let streams = [stream(), stream(), stream(), stream()];
    let together = forced(&mut device, &streams);
    let mut worst = 0_f32;
    for (i, stream) in streams.iter().enumerate() {
        let alone = forced(&mut device, std::slice::from_ref(stream));
        for (a, b) in alone[0].iter().zip(&together[i]) {
            let largest = a.iter().fold(0_f32, |m, x| m.max(x.abs()));
            let off = a
                .iter()
                .zip(b)
                .fold(0_f32, |m, (a, b)| m.max((a - b).abs()));
            worst = worst.max(off / largest);
        }
    }
    worst
}

#[test]
fn four_slots_give_the_logits_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny::write(folder.path(), tiny::Weights::Quantised);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/stent-demo.gguf");
    for file in [tiny, demo] {
        let worst = largest_difference(&file, folder.path());
        assert!(
            worst < TOLERANCE,
            "{}: largest difference {worst}",
            file.display()
        );
    }
}
