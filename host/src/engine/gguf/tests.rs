//! Whole files, faults, and files that nobody means well with (`tests/corpus/gguf`).

use proptest::prelude::*;

use super::*;

/// A small valid file: two keys, one tensor of 64 floats.
fn sample() -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend(1_u64.to_le_bytes());
    file.extend(2_u64.to_le_bytes());
    let text = |file: &mut Vec<u8>, text: &str| {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.as_bytes());
    };
    text(&mut file, "general.name");
    file.extend(8_u32.to_le_bytes());
    text(&mut file, "tiny");
    text(&mut file, "llama.context_length");
    file.extend(4_u32.to_le_bytes());
    file.extend(512_u32.to_le_bytes());
    text(&mut file, "token_embd.weight");
    file.extend(1_u32.to_le_bytes());
    file.extend(64_u64.to_le_bytes());
    file.extend(0_u32.to_le_bytes());
    file.extend(0_u64.to_le_bytes());
    file.resize(file.len().next_multiple_of(32) + 256, 0);
    file
}

fn check(bytes: &[u8]) -> Result<Header, GgufError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    read(file.path())
}

#[test]
fn a_whole_file_is_read() {
    let header = check(&sample()).unwrap();
    assert_eq!(
        (header.name.as_deref(), header.context),
        (Some("tiny"), Some(512))
    );
    assert_eq!(header.fingerprint.len(), 64);
}

#[test]
fn each_fault_is_named() {
    let says = |bytes: &[u8]| check(bytes).unwrap_err().to_string();
    assert!(says(b"<html>not found</html>").contains("starts with \"<htm\", expected \"GGUF\""));
    let whole = sample();
    let short = says(&whole[..whole.len() - 1]);
    let sizes = format!(
        "truncated: {} bytes, expected at least {}",
        whole.len() - 1,
        whole.len()
    );
    assert!(short.contains(&sizes), "{short}");
    let mut old = whole.clone();
    old[4] = 1;
    assert!(says(&old).contains("version 1, expected 2 or 3"));
    let missing = read(Path::new("/nowhere/x.gguf")).unwrap_err().to_string();
    assert!(
        missing.contains("/nowhere/x.gguf") && missing.contains("No such file"),
        "{missing}"
    );
    assert!(says(b"").contains("truncated: its 0 bytes end in the middle of its header"));
    assert!(says(&whole[..100]).contains("its 100 bytes end in the middle"));
    assert!(says(b"GGUFjunkjunkjunk").contains("corrupt: no version number follows"));
}

/// All files of `tests/corpus/gguf`, by their names.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/gguf");
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read(path).unwrap())
    };
    let mut all: Vec<_> = std::fs::read_dir(folder).unwrap().map(read).collect();
    all.sort();
    all
}

/// One clear sentence that names the file.
fn is_told(error: &GgufError) {
    let told = error.to_string();
    assert!(told.len() < 2000 && !told.contains('\n'), "{told:?}");
    assert!(
        told.contains("engine.model") || told.contains("/"),
        "{told}"
    );
}

#[test]
fn each_file_of_the_corpus_is_read_or_refused() {
    let corpus = corpus();
    assert!(corpus.len() > 12);
    for (name, bytes) in corpus {
        let found = check(&bytes);
        let reads = name == "whole";
        assert_eq!(found.is_ok(), reads, "{name}: {found:?}");
        if let Err(error) = found {
            is_told(&error);
        }
    }
}

proptest! {
    #[test]
    fn a_damaged_file_is_an_error_or_a_header(
        which: prop::sample::Index,
        other: prop::sample::Index,
        cuts in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let corpus = corpus();
        let (one, two) = (&which.get(&corpus).1, &other.get(&corpus).1);
        // The beginning of one and the end of another, with a few other bytes.
        let mut bytes = one[..cuts.0.index(one.len() + 1)].to_vec();
        bytes.extend(&two[cuts.1.index(two.len() + 1)..]);
        for (at, byte) in flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        if let Err(error) = check(&bytes) {
            is_told(&error);
        }
    }
}
