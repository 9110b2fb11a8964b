//! The table and its JSON.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};

use super::figures::{self, Figure, Samples, Unit};
use super::loads::Load;

/// All that a run found.
#[derive(Debug)]
pub struct Report {
    /// The server, and the peer if there was one.
    pub columns: Vec<Column>,
    pub seed: u64,
    pub quick: bool,
    pub notes: Vec<String>,
}

#[derive(Debug)]
pub struct Column {
    pub url: String,
    pub model: String,
    pub samples: Samples,
}

/// A figure of all columns.
struct Row {
    figure: Figure,
    values: Vec<Option<f64>>,
    /// First by second.
    ratio: Option<f64>,
    met: Option<bool>,
}

impl Report {
    /// Targets missed, of those that could be judged.
    pub fn missed(&self) -> (usize, usize) {
        let judged: Vec<bool> = self.rows().filter_map(|row| row.met).collect();
        (judged.iter().filter(|met| !**met).count(), judged.len())
    }

    pub fn json(&self) -> Value {
        let servers = self
            .columns
            .iter()
            .map(|column| json!({ "url": column.url, "model": column.model }));
        let figures = self.rows().map(|row| {
            let samples = self
                .columns
                .iter()
                .map(|column| column.samples.get(&row.figure));
            json!({
                "figure": row.figure.label(),
                "unit": row.figure.unit().name(),
                "medians": row.values,
                "samples": samples.collect::<Vec<_>>(),
                "ratio": row.ratio,
                "target": row.figure.rule().map(figures::Rule::text),
                "met": row.met,
            })
        });
        json!({
            "stent": env!("CARGO_PKG_VERSION"),
            "seed": self.seed,
            "quick": self.quick,
            "servers": servers.collect::<Vec<_>>(),
            "figures": figures.collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }

    fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let figures: BTreeSet<Figure> = self
            .columns
            .iter()
            .flat_map(|column| column.samples.keys().copied())
            .collect();
        let nothing = Samples::new();
        let peer = self
            .columns
            .get(1)
            .map(|peer| peer.samples.clone())
            .unwrap_or(nothing);
        figures.into_iter().map(move |figure| {
            let values: Vec<Option<f64>> = self
                .columns
                .iter()
                .map(|column| figures::of(&column.samples, figure))
                .collect();
            let ratio = match values[..] {
                [Some(one), Some(other)] if other != 0.0 => Some(one / other),
                _ => None,
            };
            let met = values[0]
                .zip(figure.rule())
                .and_then(|(v, rule)| rule.met(figure, v, &peer));
            Row {
                figure,
                values,
                ratio,
                met,
            }
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (column, name) in self.columns.iter().zip(["server", "peer"]) {
            // Some servers name a model by its path; the table needs its file name alone.
            let model = column.model.rsplit('/').next().unwrap_or_default();
            writeln!(f, "{name:<6} {}  {model}", column.url)?;
        }
        let names = ["server", "peer", "ratio"];
        let shown = if self.columns.len() == 2 { 3 } else { 1 };
        write!(f, "\n{:<38}", "")?;
        for name in &names[..shown] {
            write!(f, "{name:>12}")?;
        }
        writeln!(f, "  target")?;
        let mut load: Option<Option<Load>> = None;
        for row in self.rows() {
            if load
                .replace(row.figure.load())
                .is_some_and(|last| last != row.figure.load())
            {
                writeln!(f)?;
            }
            write!(f, "{:<38}", row.figure.label())?;
            for value in &row.values {
                write!(f, "{:>12}", show(*value, row.figure.unit()))?;
            }
            if shown == 3 {
                let ratio = row
                    .ratio
                    .map_or("-".to_owned(), |ratio| format!("{ratio:.2} x"));
                write!(f, "{ratio:>12}")?;
            }
            match (row.figure.rule(), row.met) {
                (Some(rule), Some(true)) => writeln!(f, "  {}: met", rule.text())?,
                (Some(rule), Some(false)) => writeln!(f, "  {}: MISSED", rule.text())?,
                _ => writeln!(f)?,
            }
        }
        writeln!(f)?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        if self.quick {
            writeln!(
                f,
                "note: a quick look; a measurement takes several repetitions"
            )?;
        }
        writeln!(f, "seed {}", self.seed)
    }
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::TokensPerSecond => "tokens/s",
            Self::Count => "",
            Self::Times => "x",
            Self::Gibibytes => "GiB",
        }
    }
}

fn show(value: Option<f64>, unit: Unit) -> String {
    let Some(value) = value else {
        return "-".to_owned();
    };
    match unit {
        Unit::Seconds if value < 1.0 => format!("{:.0} ms", value * 1000.0),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::TokensPerSecond => format!("{value:.1} t/s"),
        Unit::Count => format!("{value:.0}"),
        Unit::Times => format!("{value:.2} x"),
        Unit::Gibibytes => format!("{value:.2} GiB"),
    }
}
