//! The model file: there, whole, the one that it is said to be, and fit for these settings.

use super::report::Line;
use crate::engine::{self, Header, Kind};
use crate::models::{self, Identity};

/// What the file says of itself; `None` where no model is loaded here.
pub fn header(settings: &engine::Settings) -> Option<Result<Header, String>> {
    (settings.kind == Kind::Llama)
        .then(|| engine::header(&settings.model).map_err(|error| error.to_string()))
}

pub fn lines(
    header: &Result<Header, String>,
    settings: &engine::Settings,
    quick: bool,
) -> Vec<Line> {
    let header = match header {
        Ok(header) => header,
        Err(problem) => {
            return vec![Line::bad(
                "model.file",
                problem,
                "stent models list shows what can be pulled; name the file with engine.model",
            )];
        }
    };
    let mut lines = vec![Line::good(
        "model.file",
        format!(
            "{}, {} ({}), fingerprint {}",
            settings.model.display(),
            header.name.as_deref().unwrap_or("without a name"),
            super::memory::size(header.file_bytes),
            &header.fingerprint[..12.min(header.fingerprint.len())],
        ),
    )];
    if !quick {
        lines.push(match models::identify(&settings.model) {
            Ok(identity) => hash(&identity),
            Err(error) => Line::bad("model.hash", error, "look at the disk and its permissions"),
        });
    }
    lines.extend(metadata(header, settings));
    lines
}

/// How tokens are counted for engines elsewhere.
pub fn tokenizer(settings: &engine::Settings) -> Option<Line> {
    const CHECK: &str = "upstream.tokenizer";
    if settings.kind != Kind::Openai {
        return None;
    }
    let file = &settings.upstream.tokenizer;
    if file.as_os_str().is_empty() {
        return Some(Line::good(
            CHECK,
            "not set: tokens are estimated, three bytes each, which is more than most texts have",
        ));
    }
    Some(match engine::tokenizer(settings) {
        Ok(_) => Line::good(CHECK, format!("tokens are counted with {}", file.display())),
        Err(error) => Line::bad(
            CHECK,
            error,
            "name the vocabulary of the upstream's model, or none for an estimate",
        ),
    })
}

fn hash(identity: &Identity) -> Line {
    const CHECK: &str = "model.hash";
    match identity {
        Identity::Known { name, sha256 } => {
            Line::good(CHECK, format!("sha256 {sha256}, as {name} should have"))
        }
        Identity::Wrong {
            name,
            found,
            expected,
        } => Line::bad(
            CHECK,
            format!("sha256 {found}, but {name} has {expected}"),
            "the file is damaged or another one: move it away and run stent models pull again",
        ),
        Identity::Unknown { sha256 } => Line::warn(
            CHECK,
            format!("sha256 {sha256}; neither manifest nor models.lock knows this file"),
            "compare it with the hash that its publisher gives",
        ),
    }
}

fn metadata(header: &Header, settings: &engine::Settings) -> Vec<Line> {
    let mut lines = Vec::new();
    lines.push(match header.architecture.as_deref() {
        Some(name @ ("llama" | "mistral")) => Line::good("model.architecture", name),
        Some(name) => Line::warn(
            "model.architecture",
            format!("{name}: the bundled prompt policy writes Mistral's layout"),
            "write a prompt policy for it (stent policy new --hook prompt)",
        ),
        None => Line::warn(
            "model.architecture",
            "the file does not name one",
            "convert it again with a current llama.cpp",
        ),
    });
    let asked = u64::from(settings.n_ctx);
    lines.push(match header.context {
        Some(trained) if trained < asked => Line::warn(
            "model.context",
            format!("trained with {trained} tokens, engine.n_ctx is {asked}"),
            format!("set engine.n_ctx to {trained} or less: answers get worse beyond it"),
        ),
        Some(trained) => Line::good(
            "model.context",
            format!("trained with {trained} tokens, engine.n_ctx is {asked}"),
        ),
        None => Line::warn(
            "model.context",
            "the file does not tell the context that it was trained with",
            "compare engine.n_ctx with the model's card",
        ),
    });
    let own_prompt = "the bundled prompt policy writes [INST]; write another one for this model";
    lines.push(match header.template.as_deref() {
        _ if header.demo => Line::good("model.template", "the demo model, which knows [INST]"),
        Some(template) if template.contains("[INST]") => Line::good(
            "model.template",
            "[INST], as the bundled prompt policy writes it",
        ),
        Some(_) => Line::warn(
            "model.template",
            "the file's chat template does not use [INST]",
            own_prompt,
        ),
        None => Line::warn(
            "model.template",
            "the file has no chat template",
            "make sure that the model was trained with [INST] … [/INST], as BioMistral was",
        ),
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Level;

    fn header(architecture: &str, context: u64, template: Option<&str>) -> Header {
        Header {
            name: Some("x".into()),
            architecture: Some(architecture.into()),
            context: Some(context),
            kv_bytes: None,
            template: template.map(str::to_owned),
            k_quants: false,
            fingerprint: "f".repeat(64),
            file_bytes: 1,
            demo: false,
        }
    }

    fn levels(header: &Header) -> Vec<Level> {
        let lines = metadata(header, &engine::Settings::default());
        lines.iter().map(|line| line.level).collect()
    }

    #[test]
    fn metadata_is_held_against_the_settings() {
        use Level::{Good, Warn};
        let mistral = header("llama", 32768, Some("{{ '[INST]' }}"));
        assert_eq!(levels(&mistral), [Good, Good, Good]);
        let other = header("qwen2", 4096, Some("<|im_start|>"));
        assert_eq!(levels(&other), [Warn, Warn, Warn]);
        let silent = header("llama", 8192, None);
        assert_eq!(levels(&silent), [Good, Good, Warn]);
    }

    #[test]
    fn a_file_that_is_not_there_is_one_bad_line() {
        let lines = lines(
            &Err("engine.model: cannot open x".into()),
            &engine::Settings::default(),
            true,
        );
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].level, Level::Bad);
    }

    #[test]
    fn a_wrong_hash_is_bad_and_an_unknown_one_a_question() {
        let wrong = Identity::Wrong {
            name: "m".into(),
            found: "a".into(),
            expected: "b".into(),
        };
        assert_eq!(hash(&wrong).level, Level::Bad);
        let unknown = Identity::Unknown { sha256: "a".into() };
        assert_eq!(hash(&unknown).level, Level::Warn);
    }
}
