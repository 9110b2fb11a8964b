//! Bodies that nobody means well with, from `tests/corpus/requests`, whole and damaged: whatever
//! comes, it is read or refused with a sentence.

use std::path::Path;

use axum::response::IntoResponse;
use proptest::prelude::*;

use super::{body, completions, message};
use crate::error::Error;

/// All files of the corpus.
fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/requests");
    let files = std::fs::read_dir(folder).unwrap();
    let read =
        |file: std::io::Result<std::fs::DirEntry>| std::fs::read(file.unwrap().path()).unwrap();
    files.map(read).collect()
}

/// Reads it as each route would; the errors.
fn read(bytes: &[u8]) -> Vec<Error> {
    let chat = body::parse::<message::Request>(bytes).map(drop);
    let completion = body::parse::<completions::Request>(bytes).map(drop);
    [chat, completion]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

/// One clear sentence: short, on one line, and a status of the client's mistakes.
fn is_told(error: &Error) -> Result<(), TestCaseError> {
    let told = error.to_string();
    prop_assert!(!told.is_empty() && told.chars().count() < 2000, "{told:?}");
    prop_assert!(!told.contains('\n'), "{told:?}");
    let status = error.clone().into_response().status();
    prop_assert_eq!(status.as_u16(), 400, "{}", told);
    Ok(())
}

#[test]
fn each_body_of_the_corpus_is_read_or_refused() {
    let corpus = corpus();
    assert!(corpus.len() > 12);
    let readable = corpus.iter().filter(|bytes| read(bytes).len() < 2).count();
    assert!(
        readable >= 4,
        "{readable} of the corpus can be read by one of the routes"
    );
    for error in corpus.iter().flat_map(|bytes| read(bytes)) {
        is_told(&error).unwrap();
    }
}

proptest! {
    #[test]
    fn a_damaged_body_is_read_or_refused(
        which: prop::sample::Index,
        other: prop::sample::Index,
        cuts in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let corpus = corpus();
        let (one, two) = (which.get(&corpus), other.get(&corpus));
        // The beginning of one and the end of another, with a few other bytes.
        let mut bytes = one[..cuts.0.index(one.len() + 1)].to_vec();
        bytes.extend(&two[cuts.1.index(two.len() + 1)..]);
        for (at, byte) in flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        for error in read(&bytes) {
            is_told(&error)?;
        }
    }

    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let errors = read(&bytes);
        prop_assert_eq!(errors.len(), 2);
        for error in errors {
            is_told(&error)?;
        }
    }
}
