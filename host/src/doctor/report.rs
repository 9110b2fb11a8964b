//! The lines of the report and how they are written.

use std::io::{self, Write};

use serde::Serialize;

/// How good a thing is. The order is that of the exit statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Good,
    Warn,
    Bad,
}

impl Level {
    /// As monitoring programs expect it of a check: 0 good, 1 warn, 2 bad.
    pub fn exit(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Warn => 1,
            Self::Bad => 2,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad ",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What it is about: stable, for programs.
    pub check: &'static str,
    pub level: Level,
    /// What was found, in a sentence.
    pub found: String,
    /// What to do about it; good lines have nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
}

impl Line {
    pub fn good(check: &'static str, found: impl ToString) -> Self {
        Self {
            check,
            level: Level::Good,
            found: found.to_string(),
            todo: None,
        }
    }

    pub fn warn(check: &'static str, found: impl ToString, todo: impl ToString) -> Self {
        Self::with(check, Level::Warn, found, todo)
    }

    pub fn bad(check: &'static str, found: impl ToString, todo: impl ToString) -> Self {
        Self::with(check, Level::Bad, found, todo)
    }

    fn with(check: &'static str, level: Level, found: impl ToString, todo: impl ToString) -> Self {
        Self {
            check,
            level,
            found: found.to_string(),
            todo: Some(todo.to_string()),
        }
    }
}

/// All lines, in the order in which they were looked at.
#[derive(Debug)]
pub struct Report(pub Vec<Line>);

impl Report {
    pub fn worst(&self) -> Level {
        let levels = self.0.iter().map(|line| line.level);
        levels.max().unwrap_or(Level::Good)
    }

    pub fn json(&self) -> serde_json::Value {
        let worst = self.worst();
        serde_json::json!({ "level": worst, "exit": worst.exit(), "lines": self.0 })
    }

    pub fn write(&self, out: &mut dyn Write, colour: bool) -> io::Result<()> {
        let widest = self.0.iter().map(|line| line.check.len()).max();
        let widest = widest.unwrap_or(0);
        for line in &self.0 {
            let word = line.level.word();
            let word = match colour {
                true => format!("{}{word}\x1b[0m", line.level.colour()),
                false => word.to_owned(),
            };
            writeln!(out, "{word}  {:widest$}  {}", line.check, line.found)?;
            if let Some(todo) = &line.todo {
                writeln!(out, "      {:widest$}  -> {todo}", "")?;
            }
        }
        let count = |level| self.0.iter().filter(|line| line.level == level).count();
        let (good, warn, bad) = (count(Level::Good), count(Level::Warn), count(Level::Bad));
        writeln!(out, "\n{good} good, {warn} to look at, {bad} bad")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report(vec![
            Line::good("a", "fine"),
            Line::warn("long.name", "so so", "do this"),
        ])
    }

    #[test]
    fn the_worst_line_decides() {
        let mut report = report();
        assert_eq!(report.worst().exit(), 1);
        report.0.push(Line::bad("b", "broken", "mend it"));
        assert_eq!(report.worst().exit(), 2);
        assert_eq!(Report(vec![]).worst().exit(), 0);
    }

    #[test]
    fn people_and_programs_read_the_same() {
        let mut text = Vec::new();
        report().write(&mut text, false).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "good  a          fine\n\
             warn  long.name  so so\n                 -> do this\n\n\
             1 good, 1 to look at, 0 bad\n"
        );
        let json = report().json();
        assert_eq!(json["exit"], 1);
        assert_eq!(json["lines"][0].get("todo"), None);
        assert_eq!(json["lines"][1]["level"], "warn");
    }
}
