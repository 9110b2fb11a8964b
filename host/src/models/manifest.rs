//! models/manifest.toml: what there is to pull.

use std::path::{Component, Path};

use serde::Deserialize;

use super::ModelError;

const EMBEDDED: &str = include_str!("../../../models/manifest.toml");

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(default)]
    pub model: Vec<Entry>,
}

/// One model. The fields are explained at the head of models/manifest.toml.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub name: String,
    pub about: String,
    pub source: Option<String>,
    pub repository: Option<String>,
    #[serde(default = "main")]
    pub revision: String,
    /// Relative to the models folder; its last part is the file's name at the source.
    pub file: String,
    /// Bytes; told by the file itself where the model comes with Stent.
    pub size: Option<u64>,
    pub licence: String,
    pub sha256: Option<String>,
}

fn main() -> String {
    "main".to_owned()
}

impl Manifest {
    /// The manifest in `file`, or the one in this binary.
    pub fn load(file: Option<&Path>) -> Result<Self, ModelError> {
        match file {
            None => Self::parse("the embedded manifest", EMBEDDED),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(ModelError::io("read", path))?;
                Self::parse(&path.display().to_string(), &text)
            }
        }
    }

    fn parse(path: &str, text: &str) -> Result<Self, ModelError> {
        let wrong = |problem| ModelError::Manifest {
            path: path.to_owned(),
            problem,
        };
        let manifest: Self = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        for entry in &manifest.model {
            entry
                .check()
                .map_err(|problem| wrong(format!("model {:?}: {problem}", entry.name)))?;
        }
        Ok(manifest)
    }

    pub fn find(&self, name: &str) -> Result<&Entry, ModelError> {
        self.model
            .iter()
            .find(|entry| entry.name == name)
            .ok_or_else(|| ModelError::Unknown {
                found: name.to_owned(),
                known: self
                    .model
                    .iter()
                    .map(|e| e.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}

impl Entry {
    /// Where the file is fetched; `None` for one that comes with Stent.
    pub fn url(&self, mirror: Option<&str>) -> Option<String> {
        let repository = self.repository.as_deref()?;
        let base = mirror.or(self.source.as_deref())?.trim_end_matches('/');
        let file = self.file.rsplit('/').next().unwrap_or(&self.file);
        Some(format!(
            "{base}/{repository}/resolve/{}/{file}",
            self.revision
        ))
    }

    fn check(&self) -> Result<(), String> {
        let plain = Path::new(&self.file)
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
        if self.file.is_empty() || !plain {
            return Err(format!("file: {:?} leaves the models folder", self.file));
        }
        if self.repository.is_some() && self.source.is_none() {
            return Err("source: missing, expected the address that repository belongs to".into());
        }
        let hex = |hash: &String| {
            hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        match &self.sha256 {
            Some(hash) if !hex(hash) => Err(format!(
                "sha256: {hash:?} found, expected 64 lowercase hex digits"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_manifest_is_sound() {
        let manifest = Manifest::load(None).unwrap();
        let entry = manifest.find("biomistral-7b-q4_k_m").unwrap();
        assert_eq!(
            entry.url(Some("http://mirror/base/")).unwrap(),
            "http://mirror/base/mradermacher/BioMistral-7B-GGUF/resolve/main/BioMistral-7B.Q4_K_M.gguf"
        );
    }

    #[test]
    fn an_error_names_the_model_and_the_field() {
        let entry = |file: &str, hash: &str| {
            format!(
                "[[model]]\nname='m'\nabout=''\nfile='{file}'\nsize=1\nlicence='x'\nsha256='{hash}'\n"
            )
        };
        let error = |text: &str| Manifest::parse("m.toml", text).unwrap_err().to_string();
        assert!(error(&entry("../a", &"0".repeat(64))).contains("model \"m\": file: \"../a\""));
        assert!(error(&entry("a", "abc")).contains("model \"m\": sha256: \"abc\""));
        assert!(error("[[model]]\nnmae='m'").starts_with("m.toml: not a manifest"));
    }
}
