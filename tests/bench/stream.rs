//! Event streams, whole and damaged.

use proptest::prelude::*;
use stent::bench::sse::{Decoder, MAX_FRAME, SseError};

fn decode(parts: &[&[u8]]) -> Result<Vec<String>, SseError> {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for part in parts {
        decoder.push(part, &mut frames)?;
    }
    Ok(frames)
}

#[test]
fn fields_follow_the_standard() {
    let text = "\u{FEFF}data: one\n\n: comment\nevent: x\nid: 1\ndata:two\r\ndata:  three\r\n\r\n\
                data\n\nretry: 5\n\ndatum: no\n\ndata: lost";
    let frames = decode(&[text.as_bytes()]).unwrap();
    assert_eq!(frames, ["one", "two\n three", ""]);
}

#[test]
fn a_lone_cr_ends_a_line() {
    assert_eq!(
        decode(&[b"data: a\r\rdata: b\r", b"\n\r\n"]).unwrap(),
        ["a", "b"]
    );
}

#[test]
fn what_is_no_text_is_refused() {
    assert_eq!(decode(&[b"data: \xFF\n\n"]), Err(SseError::NotUtf8));
}

#[test]
fn endless_lines_and_frames_are_refused() {
    let line = vec![b'x'; MAX_FRAME + 1];
    assert_eq!(decode(&[&line]), Err(SseError::TooLong));
    let lines = "data: 0123456789\n".repeat(MAX_FRAME / 10 + 1);
    assert_eq!(decode(&[lines.as_bytes()]), Err(SseError::TooLong));
}

proptest! {
    #[test]
    fn where_the_bytes_are_cut_makes_no_difference(
        texts in prop::collection::vec("[a-zäß🩺 :\n]{0,12}", 0..6),
        end in prop::sample::select(vec!["\n", "\r", "\r\n"]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut bytes = Vec::new();
        for text in &texts {
            for line in text.split('\n') {
                bytes.extend(format!("data: {line}{end}").bytes());
            }
            bytes.extend(end.bytes());
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        prop_assert_eq!(decode(&parts).unwrap(), texts);
    }

    #[test]
    fn no_bytes_bring_it_down(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&[&bytes]);
    }
}
