use axum::body::to_bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn head() -> Head {
    Head {
        id: "resp_1".into(),
        session: SessionId::parse("s").ok(),
        model: "m".into(),
        created: 0,
    }
}

fn summary() -> Summary {
    Summary {
        finish: Finish::Stop,
        trace_id: None,
        cached: false,
        coalesced: false,
        generation: 1,
        ttft: None,
        prompt_tokens: 1,
        cached_tokens: 0,
        output_tokens: 1,
        tokens_per_second: 0.0,
    }
}

/// What a client that keeps to the HTML standard reads: the payloads.
fn payloads(wire: &str) -> Vec<String> {
    let events = wire.split("\n\n").filter(|event| !event.is_empty());
    let data = |event: &str| {
        let lines = event
            .split('\n')
            .filter_map(|line| line.strip_prefix("data: "));
        lines.collect::<Vec<_>>().join("\n")
    };
    events.map(data).collect()
}

async fn written(texts: &[String], format: impl Format, keep: bool) -> Vec<String> {
    let (parts, reader) = match keep {
        true => kept(Keep {
            window: Duration::from_secs(9),
            bytes: 1 << 20,
        }),
        false => channel(Duration::from_secs(9)),
    };
    for text in texts {
        parts.send(Part::Text(text.clone())).await.unwrap();
    }
    parts.send(Part::Done(summary())).await.unwrap();
    drop(parts);
    let response = sse(head(), reader, format, (Duration::from_secs(9), 0));
    let wire = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    payloads(std::str::from_utf8(&wire).unwrap())
}

/// However a text is written, its frames are whole and it is read as it was said.
async fn arrives(texts: &[String], keep: bool) -> Result<(), TestCaseError> {
    let said = |frames: &[String], path: &str| -> String {
        let parsed = frames
            .iter()
            .filter_map(|f| serde_json::from_str::<Value>(f).ok());
        parsed
            .filter_map(|f| f.pointer(path)?.as_str().map(str::to_owned))
            .collect()
    };
    let ui = written(texts, ui::Ui::default(), keep).await;
    let chunks = written(texts, openai::Chunks { usage: true }, keep).await;
    for frames in [&ui, &chunks] {
        prop_assert_eq!(frames.last().map(String::as_str), Some("[DONE]"));
        for frame in &frames[..frames.len() - 1] {
            prop_assert!(serde_json::from_str::<Value>(frame).is_ok(), "{frame:?}");
        }
    }
    prop_assert_eq!(said(&ui, "/delta"), texts.concat());
    prop_assert_eq!(said(&chunks, "/choices/0/delta/content"), texts.concat());
    Ok(())
}

#[tokio::test]
async fn each_text_of_the_corpus_arrives_as_it_was_said() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/texts");
    let files = std::fs::read_dir(folder).unwrap();
    let texts: Vec<_> = files
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    assert!(texts.len() > 8);
    for keep in [false, true] {
        arrives(&texts, keep).await.unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever a model says, its text cannot end a frame or begin one.
    #[test]
    fn text_arrives_as_it_was_said(
        texts in prop::collection::vec("(\\PC|[\r\n\u{0}\u{2028}\u{85}:]|data: |\n\n|\\[DONE\\])*", 0..6),
        keep: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let texts: Vec<String> = texts;
        runtime.block_on(arrives(&texts, keep))?;
    }
}
