//! The pieces of a header: numbers, texts, lists, and how many bytes a tensor's type takes.

use std::io::Read;

use sha2::Digest;

use super::{GgufError, MAX_COUNT, MAX_STRING, Reader, Value};

impl<R: Read> Reader<'_, R> {
    pub(super) fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let kind = u32::from_le_bytes(self.bytes()?);
        self.value_of(kind, key, true)
    }

    fn value_of(&mut self, kind: u32, key: &str, top: bool) -> Result<Value, GgufError> {
        Ok(match kind {
            0 | 7 => Value::Number(u64::from(self.bytes::<1>()?[0])),
            1 => self.skip::<1>()?,
            2 => Value::Number(u64::from(u16::from_le_bytes(self.bytes()?))),
            3 => self.skip::<2>()?,
            4 => Value::Number(u64::from(u32::from_le_bytes(self.bytes()?))),
            5 | 6 => self.skip::<4>()?,
            8 => Value::Text(self.string(key)?),
            9 if top => {
                let kind = u32::from_le_bytes(self.bytes()?);
                for _ in 0..self.count(key)? {
                    self.value_of(kind, key, false)?;
                }
                Value::Other
            }
            10 => Value::Number(u64::from_le_bytes(self.bytes()?)),
            11 | 12 => self.skip::<8>()?,
            _ => return Err(self.corrupt(format!("key {key:?} has the unknown type {kind}"))),
        })
    }

    fn skip<const N: usize>(&mut self) -> Result<Value, GgufError> {
        self.bytes::<N>()?;
        Ok(Value::Other)
    }

    pub(super) fn count(&mut self, what: &str) -> Result<u64, GgufError> {
        let count = u64::from_le_bytes(self.bytes()?);
        if count > MAX_COUNT {
            return Err(self.corrupt(format!(
                "it claims {count} {what}, expected at most {MAX_COUNT}"
            )));
        }
        Ok(count)
    }

    pub(super) fn string(&mut self, what: &str) -> Result<String, GgufError> {
        let len = u64::from_le_bytes(self.bytes()?);
        if len > MAX_STRING {
            return Err(self.corrupt(format!(
                "{what} is {len} bytes long, expected at most {MAX_STRING}"
            )));
        }
        let mut text = vec![0; len as usize];
        self.fill(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), GgufError> {
        let expected = self.at + bytes.len() as u64;
        self.from
            .read_exact(bytes)
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::UnexpectedEof => GgufError::Header {
                    path: self.path.into(),
                    found: self.size,
                },
                _ => GgufError::Open {
                    path: self.path.into(),
                    source,
                },
            })?;
        self.at = expected;
        self.hash.update(&*bytes);
        Ok(())
    }

    pub(super) fn corrupt(&self, what: String) -> GgufError {
        GgufError::Corrupt {
            path: self.path.into(),
            what,
        }
    }
}

/// Elements and bytes of a block of the ggml type.
pub(super) fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        2 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        20 => (32, 18),
        21 => (256, 110),
        22 => (256, 82),
        23 => (256, 136),
        24 => (1, 1),
        27 | 28 => (1, 8),
        29 => (256, 56),
        34 => (256, 54),
        35 => (256, 66),
        39 => (32, 17),
        _ => return None,
    })
}
