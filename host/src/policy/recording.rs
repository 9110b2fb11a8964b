//! Recording of what hooks are asked and answer, for `stent policy replay`. Off unless the
//! operator names a file, because the file holds what people write.
//!
//! A call costs its request a copy of some pointers and a place in a bounded queue; a thread of
//! its own writes. What finds the queue full is dropped, counted and said.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::history::now_ms;
use super::types::{AnswerOutcome, Facts, Hook, Layout, Lookup, Prompt, Trimmed, Verdict};
use crate::types::{Finish, Message};

/// Calls that may wait for the writer.
const QUEUE: usize = 1024;
/// The least time between two complaints about dropped calls.
const COMPLAINTS: Duration = Duration::from_secs(10);

/// One line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub at_ms: u64,
    pub generation: u64,
    /// Name and digest of who answered; the digest is empty for native code.
    pub policy: String,
    pub sha256: String,
    pub facts: Arc<Facts>,
    pub call: Heard,
}

/// A question with what came of it: the policy's answer, or the built-in's where it failed open.
/// `None` where it failed and the request was refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(super) enum Heard {
    Guard {
        messages: Vec<Message>,
        answer: Option<Verdict>,
    },
    CacheDecide {
        messages: Vec<Message>,
        answer: Option<Lookup>,
    },
    Trim {
        messages: Vec<Message>,
        budget: Budget,
        previous_first: Option<u64>,
        answer: Option<Trimmed>,
    },
    Build {
        messages: Vec<Message>,
        layout: Layout,
        answer: Option<Prompt>,
    },
    CacheAdmit {
        messages: Vec<Message>,
        text: String,
        outcome: AnswerOutcome,
        /// Time to live; `None` where nothing is kept.
        answer: Option<Duration>,
    },
    Filter {
        chunks: Vec<String>,
        /// `None` where the client left before the end.
        finish: Option<Finish>,
        answer: Option<Filtered>,
    },
}

/// What a filter made of a whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Filtered {
    pub emitted: String,
    /// Its reason where it stopped the answer.
    pub stopped: Option<String>,
}

impl Heard {
    pub(super) fn hook(&self) -> Hook {
        match self {
            Self::Guard { .. } => Hook::Guard,
            Self::CacheDecide { .. } | Self::CacheAdmit { .. } => Hook::Cache,
            Self::Trim { .. } => Hook::Trim,
            Self::Build { .. } => Hook::Prompt,
            Self::Filter { .. } => Hook::Filter,
        }
    }
}

/// The request's side: hands lines over and never waits.
#[derive(Clone)]
pub(super) struct Recorder {
    queue: SyncSender<Note>,
    dropped: Arc<AtomicU64>,
    /// The file is full or cannot be written any more.
    over: Arc<AtomicBool>,
}

/// The thread that writes; it is told to stop and joined when this is dropped.
pub(super) struct Writer {
    recorder: Recorder,
    thread: Option<JoinHandle<()>>,
}

enum Note {
    Line(Box<Line>),
    Stop,
}

impl Recorder {
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn send(&self, line: Line) {
        if !self.is_over() && self.queue.try_send(Note::Line(Box::new(line))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Opens the file, readable by its owner only, also where it was there before, and appends from here
    /// on.
    pub(super) fn start(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).mode(0o600).open(path)?;
        let meta = file.metadata()?;
        if meta.is_file() && meta.mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        let written = meta.len();
        tracing::warn!(target: "stent::policy",
            "policies.record: everything that people write and are answered is stored in {}, up to {max_bytes} bytes",
            path.display());
        let (queue, inbox) = sync_channel(QUEUE);
        let recorder = Recorder {
            queue,
            dropped: Arc::default(),
            over: Arc::default(),
        };
        let scribe = Scribe {
            path: path.to_owned(),
            file: BufWriter::new(file),
            written,
            max_bytes,
            recorder: recorder.clone(),
            told: (0, None),
        };
        let thread = std::thread::Builder::new()
            .name("stent-recorder".into())
            .spawn(move || scribe.write(&inbox))?;
        Ok(Self {
            recorder,
            thread: Some(thread),
        })
    }

    pub(super) fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Waits for room in the queue: what was recorded so far is written first.
        let _ = self.recorder.queue.send(Note::Stop);
        if let Some(thread) = self.thread.take() {
            // A panicked writer has said so on its way out.
            let _ = thread.join();
        }
    }
}

struct Scribe {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
    max_bytes: u64,
    recorder: Recorder,
    /// How many dropped calls were complained about, and when.
    told: (u64, Option<Instant>),
}

impl Scribe {
    fn write(mut self, inbox: &Receiver<Note>) {
        loop {
            let note = match inbox.try_recv() {
                Ok(note) => note,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    if let Err(error) = self.file.flush() {
                        self.give_up(&error);
                    }
                    match inbox.recv() {
                        Ok(note) => note,
                        Err(_) => break,
                    }
                }
            };
            match note {
                Note::Stop => break,
                Note::Line(line) => self.line(&line),
            }
            self.complain(false);
        }
        if let Err(error) = self.file.flush() {
            self.give_up(&error);
        }
        self.complain(true);
    }

    fn line(&mut self, line: &Line) {
        if self.recorder.is_over() {
            return;
        }
        let json = serde_json::to_vec(line).map_err(io::Error::other);
        let written = json.and_then(|mut json| {
            json.push(b'\n');
            let bytes = json.len() as u64;
            if self.written + bytes > self.max_bytes {
                self.recorder.over.store(true, Ordering::Relaxed);
                tracing::warn!(target: "stent::policy",
                    "policies.record: {} has {} bytes and policies.record_max_bytes is {}: nothing more is recorded",
                    self.path.display(), self.written, self.max_bytes);
                return Ok(0);
            }
            self.file.write_all(&json).map(|()| bytes)
        });
        match written {
            Ok(bytes) => self.written += bytes,
            Err(error) => self.give_up(&error),
        }
    }

    fn give_up(&self, error: &io::Error) {
        if !self.recorder.over.swap(true, Ordering::Relaxed) {
            tracing::error!(target: "stent::policy",
                "policies.record: {}: {error}; nothing more is recorded", self.path.display());
        }
    }

    fn complain(&mut self, last: bool) {
        let dropped = self.recorder.dropped.load(Ordering::Relaxed);
        let (told, when) = self.told;
        if dropped > told && (last || when.is_none_or(|when| when.elapsed() >= COMPLAINTS)) {
            tracing::warn!(target: "stent::policy",
                "policies.record: {} calls were not recorded, because they came faster than {} can be written",
                dropped - told, self.path.display());
            self.told = (dropped, Some(Instant::now()));
        }
    }
}

/// Collects one answer's chunks; recorded when it is dropped, however the answer ended.
pub(super) struct Tape {
    recorder: Recorder,
    line: Line,
}

impl Tape {
    pub(super) fn new(recorder: Recorder, line: Line) -> Self {
        Self { recorder, line }
    }

    pub(super) fn heard(&mut self, chunk: &str) {
        if let Heard::Filter { chunks, .. } = &mut self.line.call {
            chunks.push(chunk.to_owned());
        }
    }

    /// What came of the last chunk or of the end; `None` where it failed and was refused.
    pub(super) fn said(&mut self, text: Option<&str>, why: Option<&str>) {
        let Heard::Filter { answer, .. } = &mut self.line.call else {
            return;
        };
        match (text, answer.as_mut()) {
            (Some(text), Some(answer)) => {
                answer.emitted.push_str(text);
                answer.stopped = why.map(str::to_owned);
            }
            _ => *answer = None,
        }
    }

    pub(super) fn ended(&mut self, why: Finish) {
        if let Heard::Filter { finish, .. } = &mut self.line.call {
            *finish = Some(why);
        }
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        self.recorder.send(self.line.clone());
    }
}

/// The line of a call that ends now.
pub(super) fn line(
    generation: u64,
    (policy, sha256): (&str, &str),
    facts: Arc<Facts>,
    call: Heard,
) -> Line {
    Line {
        at_ms: now_ms(),
        generation,
        policy: policy.to_owned(),
        sha256: sha256.to_owned(),
        facts,
        call,
    }
}
