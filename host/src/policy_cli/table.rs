//! Aligned columns, and colour where somebody looks.

use std::io::{self, IsTerminal, Write};

/// Colours, or none where the output is no terminal or `NO_COLOR` is set.
#[derive(Clone, Copy)]
pub struct Paint(bool);

/// ANSI's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Plain = 0,
    Faint = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

impl Paint {
    pub fn of_stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self(wanted && io::stdout().is_terminal())
    }

    pub fn paint(self, colour: Colour, text: &str) -> String {
        match self.0 && colour != Colour::Plain {
            true => format!("\x1b[{}m{text}\x1b[0m", colour as u8),
            false => text.to_owned(),
        }
    }
}

/// Rows under a header; a row may have a sentence of its own below it.
pub struct Table<const N: usize> {
    header: [&'static str; N],
    rows: Vec<([String; N], Colour, Option<String>)>,
}

impl<const N: usize> Table<N> {
    pub fn new(header: [&'static str; N]) -> Self {
        let rows = Vec::new();
        Self { header, rows }
    }

    /// `colour` is that of the second column.
    pub fn row(&mut self, cells: [String; N], colour: Colour, below: Option<String>) {
        self.rows.push((cells, colour, below));
    }

    pub fn write(&self, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
        let widths: [usize; N] = std::array::from_fn(|at| {
            let cells = self
                .rows
                .iter()
                .map(|(cells, ..)| cells[at].chars().count());
            cells.chain([self.header[at].len()]).max().unwrap_or(0)
        });
        let line = |cells: [&str; N], colour: [Colour; N], out: &mut dyn Write| {
            let mut text = String::new();
            for at in 0..N {
                let gap = widths[at] - cells[at].chars().count();
                let gap = if at + 1 == N { 0 } else { gap + 2 };
                text.push_str(&paint.paint(colour[at], cells[at]));
                text.push_str(&" ".repeat(gap));
            }
            writeln!(out, "{}", text.trim_end())
        };
        line(self.header, [Colour::Faint; N], out)?;
        for (cells, colour, below) in &self.rows {
            let mut colours = [Colour::Plain; N];
            if let Some(second) = colours.get_mut(1) {
                *second = *colour;
            }
            line(cells.each_ref().map(String::as_str), colours, out)?;
            if let Some(below) = below {
                writeln!(out, "  {below}")?;
            }
        }
        Ok(())
    }
}
