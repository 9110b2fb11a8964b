//! `stent bench make-model`: the model that the figures are taken with.

use std::path::PathBuf;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::Error;
use crate::engine::shape::{self, Made, Shape};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to write it; a complete file of the same shape is kept
    pub out: PathBuf,
    /// Transformer layers: 32 is BioMistral-7B (4.4 GB), 8 a quarter of its cost (1.2 GB)
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=80))]
    pub layers: u32,
    /// Words of the greedy answer before it ends
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub reply: u32,
    /// Mistral's SentencePiece vocabulary, tokenizer.model.v1 of the Python package mistral-common
    #[arg(long, value_name = "FILE")]
    pub vocab: PathBuf,
}

/// Writes the model and says what it says.
pub fn run(args: &Args) -> Result<(), Error> {
    let shape = Shape {
        layers: args.layers,
        reply: args.reply,
    };
    let bar = ProgressBar::no_length();
    let style = ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes} {eta} {msg}");
    // The template is a constant; should it ever be wrong, the default style will do.
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let made = shape::make(&args.out, &args.vocab, shape, |written, total| {
        bar.set_length(total);
        bar.set_position(written);
    });
    bar.finish_and_clear();
    let out = args.out.display();
    match made? {
        Made::Kept { bytes } => println!("{out}: already there, {}", HumanBytes(bytes)),
        Made::Written { bytes, begins } => {
            println!(
                "{out}: {}; every answer begins: {begins}",
                HumanBytes(bytes)
            );
        }
    }
    Ok(())
}
