//! Reading a `text/event-stream`, as the HTML standard defines it (section 9.2.6): lines end in
//! LF, CR or CRLF, a blank line ends a frame, several `data:` lines are joined by LF, comments
//! and unknown fields are skipped. Bytes may be cut anywhere, even inside a character.

/// Longest line or frame that is accepted, in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// Turns bytes as they arrive into the `data` of frames.
#[derive(Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    data: Vec<u8>,
    /// The frame has a `data` field, if only an empty one.
    has_data: bool,
    /// The last byte was CR: a LF that follows belongs to the same line end.
    after_cr: bool,
    /// The first line may start with a byte order mark.
    started: bool,
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    #[error("a frame is longer than {MAX_FRAME} bytes")]
    TooLong,
    #[error("a frame is not UTF-8")]
    NotUtf8,
}

impl Decoder {
    /// Takes the next bytes and appends the `data` of each frame that they complete. An
    /// unfinished frame at the end of the stream is never reported: the standard discards it.
    pub fn push(&mut self, bytes: &[u8], frames: &mut Vec<String>) -> Result<(), SseError> {
        for &byte in bytes {
            let follows_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if follows_cr => {}
                b'\n' | b'\r' => self.end_line(frames)?,
                _ if self.line.len() == MAX_FRAME => return Err(SseError::TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    fn end_line(&mut self, frames: &mut Vec<String>) -> Result<(), SseError> {
        if !self.started {
            self.started = true;
            if self.line.starts_with(b"\xEF\xBB\xBF") {
                self.line.drain(..3);
            }
        }
        if self.line.is_empty() {
            return self.end_frame(frames);
        }
        let colon = self.line.iter().position(|&b| b == b':');
        let (field, value) = match colon {
            Some(at) => (&self.line[..at], &self.line[at + 1..]),
            None => (&self.line[..], &[][..]),
        };
        if field == b"data" {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.has_data = true;
            self.data
                .extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
        self.line.clear();
        if self.data.len() > MAX_FRAME {
            return Err(SseError::TooLong);
        }
        Ok(())
    }

    fn end_frame(&mut self, frames: &mut Vec<String>) -> Result<(), SseError> {
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) {
            frames.push(String::from_utf8(data).map_err(|_| SseError::NotUtf8)?);
        }
        Ok(())
    }
}
