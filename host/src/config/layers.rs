//! Reads the layers and lays one over the other. Mistakes are told where they were made: a file
//! by its line, a variable or option by its name.

use std::path::Path;

use toml::{Table, Value};

use crate::types::wording::{plain as worded, without_login};

use super::{Config, ConfigError, environment};

/// What a struct is called here.
const TABLE: &str = "a table";

/// What comes after the file: pairs of origin ("STENT_ENGINE_SLOTS", "--set engine.slots"),
/// dotted key and value.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    values: Vec<Override>,
    warnings: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Override {
    pub origin: String,
    pub path: Vec<String>,
    pub value: Value,
    /// As it was given.
    pub text: String,
}

impl Overrides {
    /// From the environment; see [`environment`].
    pub fn from_env(vars: impl Iterator<Item = (String, String)>) -> Self {
        let (values, warnings) = environment::read(vars);
        Self { values, warnings }
    }

    /// Variables that look like ours and set nothing: one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Adds `key.path=value` as `--set` takes it.
    ///
    /// # Errors
    /// When there is no `=` or no section.
    pub fn set(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let origin = format!("--set {}", without_login(assignment));
        let bad = |message: &str| ConfigError::Override {
            origin: origin.clone(),
            message: message.to_owned(),
        };
        let (key, text) = assignment
            .split_once('=')
            .ok_or_else(|| bad("found no '=', expected section.key=value"))?;
        let path: Vec<String> = key.trim().split('.').map(str::to_owned).collect();
        if path.len() < 2 || path.iter().any(String::is_empty) {
            return Err(bad("expected section.key=value, such as engine.slots=4"));
        }
        self.values.push(Override {
            origin,
            path,
            value: value(text),
            text: text.to_owned(),
        });
        Ok(())
    }

    /// Adds a flag of its own, such as `--listen ADDR`.
    pub fn flag(&mut self, flag: &str, section: &str, key: &str, text: &str) {
        self.values.push(Override {
            origin: format!("{flag} {text}"),
            path: vec![section.to_owned(), key.to_owned()],
            value: Value::String(text.to_owned()),
            text: text.to_owned(),
        });
    }
}

/// A TOML value where it reads as one (`4`, `true`, `["a"]`), else the text as it stands.
pub(super) fn value(text: &str) -> Value {
    format!("v = {text}")
        .parse::<Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("v"))
        .filter(|value| !matches!(value, Value::Datetime(_)))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Reads a file and checks it alone, so that its mistakes are told with their lines.
pub(super) fn file(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let wrong = |message: String| ConfigError::File {
        path: path.to_owned(),
        message: without_login(&message),
    };
    let table: Table = text
        .parse()
        .map_err(|e: toml::de::Error| wrong(e.to_string().trim_end().to_owned()))?;
    let document = toml::Deserializer::parse(&text).map_err(|e| wrong(e.to_string()))?;
    serde_path_to_error::deserialize::<_, Config>(document).map_err(|e| {
        let key = e.path().to_string();
        let inner = e.into_inner();
        let line = inner
            .span()
            .map(|span| text[..span.start].matches('\n').count() + 1);
        let at = line
            .map(|line| format!("line {line}: "))
            .unwrap_or_default();
        wrong(format!("{at}{key}: {}", worded(inner.message(), TABLE)))
    })?;
    Ok(table)
}

/// Lays the overrides over the table one by one, so that a mistake names its origin.
pub(super) fn overlay(table: &mut Table, overrides: &Overrides) -> Result<Config, ConfigError> {
    let mut config = read(table).map_err(|message| ConfigError::Override {
        origin: "configuration".into(),
        message,
    })?;
    for over in &overrides.values {
        let wrong = |message: String| ConfigError::Override {
            origin: over.origin.clone(),
            message: without_login(&message),
        };
        insert(table, &over.path, over.value.clone()).map_err(wrong)?;
        config = read(table).or_else(|first| {
            // A pin or a path may read as a number where a text is meant.
            insert(table, &over.path, Value::String(over.text.clone())).map_err(wrong)?;
            read(table).map_err(|_| wrong(first))
        })?;
    }
    Ok(config)
}

fn insert(table: &mut Table, path: &[String], value: Value) -> Result<(), String> {
    let [parents @ .., last] = path else {
        return Ok(());
    };
    let mut here = table;
    for (depth, name) in parents.iter().enumerate() {
        here = here
            .entry(name)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| format!("{} is a value, not a section", path[..=depth].join(".")))?;
    }
    here.insert(last.clone(), value);
    Ok(())
}

fn read(table: &Table) -> Result<Config, String> {
    serde_path_to_error::deserialize(Value::Table(table.clone())).map_err(|e| {
        let key = e.path().to_string();
        format!("{key}: {}", worded(e.into_inner().message(), TABLE))
    })
}
