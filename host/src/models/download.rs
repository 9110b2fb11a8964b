//! One file over HTTP that survives cut connections: bytes go to `FILE.part` and are hashed as
//! they come; a later attempt, or a later process, asks for the rest (RFC 9110, section 14).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode};
use sha2::{Digest, Sha256};

use super::{ModelError, hash};

const CONNECT: Duration = Duration::from_secs(20);
/// Waits between attempts that gained nothing: 0.2 s doubling up to 10 s.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

pub(super) struct Download<'a> {
    pub(super) url: &'a str,
    pub(super) path: &'a Path,
    pub(super) expected: Option<&'a str>,
    pub(super) retries: u32,
    pub(super) timeout: Duration,
}

/// Why an attempt ended before the file did.
enum Cut {
    /// Worth another attempt.
    Again(String),
    For(ModelError),
}

impl From<ModelError> for Cut {
    fn from(error: ModelError) -> Self {
        Self::For(error)
    }
}

impl From<reqwest::Error> for Cut {
    fn from(error: reqwest::Error) -> Self {
        // The client's own message is general; the cause says what happened.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        Self::Again(cause.to_string())
    }
}

impl Download<'_> {
    /// Returns the sha256 of the file, which then stands at `path`.
    pub(super) fn run(&self) -> Result<String, ModelError> {
        crate::tls::install();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ModelError::Client(error.to_string()))?;
        let client = Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(self.timeout)
            .user_agent(concat!("stent/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ModelError::Client(error.to_string()))?;
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent).map_err(ModelError::io("create", parent))?;
        }
        let mut part = Part::open(self.path)?;
        let bar = bar();
        runtime.block_on(self.fetch(&client, &mut part, &bar))?;
        bar.finish_and_clear();
        self.settle(part)
    }

    async fn fetch(
        &self,
        client: &Client,
        part: &mut Part,
        bar: &ProgressBar,
    ) -> Result<(), ModelError> {
        let (mut attempts, mut wait) = (0, FIRST_WAIT);
        loop {
            let before = part.length;
            let problem = match self.attempt(client, part, bar).await {
                Ok(()) => return Ok(()),
                Err(Cut::For(error)) => return Err(error),
                Err(Cut::Again(problem)) => problem,
            };
            if part.length > before {
                (attempts, wait) = (0, FIRST_WAIT);
            }
            attempts += 1;
            if attempts > self.retries {
                let (url, kept) = (self.url.to_owned(), part.length);
                return Err(ModelError::GaveUp {
                    url,
                    attempts,
                    problem,
                    kept,
                });
            }
            bar.set_message(format!("{problem}; trying again"));
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn attempt(
        &self,
        client: &Client,
        part: &mut Part,
        bar: &ProgressBar,
    ) -> Result<(), Cut> {
        let mut request = client.get(self.url);
        // Without something that identifies the first half, the second may belong to another file.
        match part.etag.as_deref() {
            Some(etag) if part.length > 0 => {
                let rest = format!("bytes={}-", part.length);
                request = request.header(RANGE, rest).header(IF_RANGE, etag);
            }
            _ => part.restart()?,
        }
        let mut response = request.send().await?;
        let total = self.begin(&response, part)?;
        bar.set_length(total.unwrap_or(part.length));
        bar.set_position(part.length);
        bar.set_message("");
        while let Some(bytes) = response.chunk().await? {
            part.append(&bytes)?;
            bar.set_position(part.length);
        }
        match total {
            Some(total) if total != part.length => {
                Err(Cut::Again(format!("{} of {total} bytes came", part.length)))
            }
            _ => Ok(()),
        }
    }

    /// Puts `part` where the answer's first byte belongs and tells the file's length, if known.
    fn begin(&self, response: &Response, part: &mut Part) -> Result<Option<u64>, Cut> {
        let status = response.status();
        let headers = response.headers();
        match status {
            StatusCode::PARTIAL_CONTENT => {
                let range = ContentRange::of(headers);
                let same = strong_etag(headers).is_none_or(|tag| Some(tag) == part.etag.as_deref());
                match range {
                    Some(range) if range.start == Some(part.length) && same => Ok(range.total),
                    _ => {
                        part.restart()?;
                        Err(Cut::Again(
                            "the server sent another part than was asked for".into(),
                        ))
                    }
                }
            }
            // No ranges there, or another file than before: from the start.
            StatusCode::OK => {
                part.restart()?;
                part.identify(strong_etag(headers))?;
                Ok(response.content_length())
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let total = ContentRange::of(headers).and_then(|range| range.total);
                if total == Some(part.length) {
                    return Ok(total);
                }
                part.restart()?;
                Err(Cut::Again(
                    "the file at the server is shorter than what was kept".into(),
                ))
            }
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Cut::Again(format!("the server answered {status}")))
            }
            _ => Err(Cut::For(ModelError::Status {
                url: self.url.to_owned(),
                status: status.as_u16(),
                hint: match status {
                    StatusCode::NOT_FOUND => "; a mirror must hold the same paths as the source",
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; it wants a login",
                    _ => "",
                },
            })),
        }
    }

    /// Compares the hash and puts the file in its place. Wrong bytes are thrown away: another
    /// attempt would go on behind them.
    fn settle(&self, part: Part) -> Result<String, ModelError> {
        let found = hex::encode(part.hasher.clone().finalize());
        if let Some(expected) = self.expected
            && expected != found
        {
            part.remove()?;
            let (path, expected) = (self.path.to_owned(), expected.to_owned());
            let hint = "; the download was thrown away";
            return Err(ModelError::WrongBytes {
                path,
                found,
                expected,
                hint,
            });
        }
        part.file
            .sync_all()
            .map_err(ModelError::io("sync", &part.path))?;
        fs::rename(&part.path, self.path).map_err(ModelError::io("rename to", self.path))?;
        remove(&part.etag_path)?;
        Ok(found)
    }
}

/// `FILE.part`, its hash so far, and the ETag of the file it is a part of (`FILE.part.etag`).
struct Part {
    path: PathBuf,
    etag_path: PathBuf,
    file: File,
    length: u64,
    hasher: Sha256,
    etag: Option<String>,
}

impl Part {
    fn open(target: &Path) -> Result<Self, ModelError> {
        let path = suffixed(target, ".part");
        let etag_path = suffixed(target, ".part.etag");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(ModelError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ModelError::Busy { path }),
            Err(TryLockError::Error(error)) => return Err(ModelError::io("lock", &path)(error)),
        }
        let mut hasher = Sha256::new();
        let length = hash::feed(&path, &mut hasher)?;
        file.seek(SeekFrom::Start(length))
            .map_err(ModelError::io("seek in", &path))?;
        let etag = fs::read_to_string(&etag_path)
            .ok()
            .filter(|etag| !etag.is_empty());
        Ok(Self {
            path,
            etag_path,
            file,
            length,
            hasher,
            etag,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        self.file
            .write_all(bytes)
            .map_err(ModelError::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), ModelError> {
        self.file
            .set_len(0)
            .map_err(ModelError::io("truncate", &self.path))?;
        self.file
            .rewind()
            .map_err(ModelError::io("seek in", &self.path))?;
        (self.length, self.hasher, self.etag) = (0, Sha256::new(), None);
        remove(&self.etag_path)
    }

    fn identify(&mut self, etag: Option<&str>) -> Result<(), ModelError> {
        let Some(etag) = etag else { return Ok(()) };
        fs::write(&self.etag_path, etag).map_err(ModelError::io("write", &self.etag_path))?;
        self.etag = Some(etag.to_owned());
        Ok(())
    }

    fn remove(self) -> Result<(), ModelError> {
        remove(&self.path)?;
        remove(&self.etag_path)
    }
}

/// `Content-Range: bytes 5-9/10`, or `bytes */10` where nothing could be sent.
struct ContentRange {
    start: Option<u64>,
    total: Option<u64>,
}

impl ContentRange {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
        let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
        let start = range
            .split_once('-')
            .and_then(|(start, _)| start.parse().ok());
        Some(Self {
            start,
            total: total.parse().ok(),
        })
    }
}

/// Weak tags do not promise the same bytes, and If-Range does not take them.
fn strong_etag(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(ETAG)?
        .to_str()
        .ok()
        .filter(|tag| tag.starts_with('"'))
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove(path: &Path) -> Result<(), ModelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ModelError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

const TEMPLATE: &str =
    "{bar:40} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} {wide_msg}";

/// Drawn on a terminal, silent elsewhere.
fn bar() -> ProgressBar {
    // The template is fixed and drawn by a test; the default style would do as well.
    let style = ProgressStyle::with_template(TEMPLATE);
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests;
