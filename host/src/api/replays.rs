//! Answers that are kept for whoever lost the connection: read again by their id, or by asking
//! again with the same `Idempotency-Key`. Bound to their tenant and session, and to a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::chat::Answer;
use crate::error::Error;
use crate::stream::{Head, Keep, Reader, Recording};
use crate::types::{SessionKey, TenantId};

/// How long and how much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// An answer is written on for so long without a reader.
    pub window: Duration,
    /// It can be read for so long after its end.
    pub time: Duration,
    /// Of all kept answers together; complete ones go first, the oldest before the others.
    pub bytes: usize,
}

/// Most of one answer that is kept: ten times what the longest context makes.
const ANSWER: usize = 1 << 20;

/// The kept answers of this process.
pub struct Replays {
    limits: Limits,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    answers: HashMap<String, Arc<Kept>>,
    claims: HashMap<Name, Arc<Claim>>,
    /// Counts the answers, to tell which is the newest.
    count: u64,
}

/// A client's name for a request: its tenant and `Idempotency-Key`.
type Name = (TenantId, String);

/// One answer.
pub struct Kept {
    tenant: TenantId,
    number: u64,
    pub head: Head,
    pub recording: Arc<Recording>,
}

impl Kept {
    /// The answer from its start.
    pub fn answer(&self) -> Answer {
        Answer {
            head: self.head.clone(),
            parts: Reader::of(&self.recording),
        }
    }
}

/// A request that came with an `Idempotency-Key`, and its answer once there is one.
pub struct Claim {
    /// Of route and body.
    digest: [u8; 32],
    /// Set by the first attempt that was not refused; later ones, and those at the same time, wait
    /// for it instead of running the prompt.
    pub answer: OnceCell<Arc<Kept>>,
}

impl Replays {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            held: Mutex::default(),
        }
    }

    pub fn keep(&self) -> Keep {
        Keep {
            window: self.limits.window,
            bytes: ANSWER,
        }
    }

    /// The claim that the headers make on a request; `None` without an `Idempotency-Key`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key that is none, [`Error::KeyReused`] for another request's.
    pub fn claim(
        &self,
        tenant: &TenantId,
        headers: &HeaderMap,
        request: (&str, &[u8]),
    ) -> Result<Option<Arc<Claim>>, Error> {
        let Some(key) = headers.get("idempotency-key") else {
            return Ok(None);
        };
        let key = key
            .to_str()
            .ok()
            .filter(|key| (1..=255).contains(&key.len()));
        let key = key.ok_or_else(|| {
            Error::invalid(
                "Idempotency-Key",
                "expected 1 to 255 printable ASCII characters",
            )
        })?;
        let mut digest = Sha256::new();
        let (route, body) = request;
        digest.update(route);
        digest.update([0]);
        digest.update(body);
        let digest = digest.finalize().into();
        let mut held = self.locked();
        self.sweep(&mut held);
        let name = (tenant.clone(), key.to_owned());
        let claim = held.claims.entry(name).or_insert_with(|| {
            Arc::new(Claim {
                digest,
                answer: OnceCell::new(),
            })
        });
        match claim.digest == digest {
            true => Ok(Some(Arc::clone(claim))),
            false => Err(Error::KeyReused),
        }
    }

    /// Keeps an answer that is being recorded; `None` for one that is not.
    pub fn add(&self, tenant: &TenantId, answer: &Answer) -> Option<Arc<Kept>> {
        let recording = Arc::clone(answer.parts.recording()?);
        let mut held = self.locked();
        self.sweep(&mut held);
        held.count += 1;
        let kept = Arc::new(Kept {
            tenant: tenant.clone(),
            number: held.count,
            head: answer.head.clone(),
            recording,
        });
        held.answers.insert(kept.head.id.clone(), Arc::clone(&kept));
        Some(kept)
    }

    /// The answer with this id, or the newest of the session with this id, if it is the tenant's.
    pub fn find(&self, tenant: &TenantId, id: &str) -> Option<Arc<Kept>> {
        let mut held = self.locked();
        self.sweep(&mut held);
        let of_session = || {
            let named = |kept: &&Arc<Kept>| {
                let session = kept.head.session.as_ref();
                kept.tenant == *tenant && session.is_some_and(|session| session.as_str() == id)
            };
            held.answers
                .values()
                .filter(named)
                .max_by_key(|kept| kept.number)
        };
        let found = held.answers.get(id).or_else(of_session);
        found.filter(|kept| kept.tenant == *tenant).cloned()
    }

    /// Stops and forgets all answers of a session.
    pub fn forget(&self, session: &SessionKey) {
        self.locked().answers.retain(|_, kept| {
            let of_it = kept.tenant == session.tenant
                && kept.head.session.as_ref() == Some(&session.session);
            if of_it {
                kept.recording.stop();
            }
            !of_it
        });
    }

    /// Drops what is past its time or does not fit. Done whenever somebody comes, so that no
    /// clock of its own is needed.
    fn sweep(&self, held: &mut Held) {
        let current = |kept: &Kept| {
            let ended = kept.recording.ended();
            ended.is_none_or(|ended| ended.elapsed() < self.limits.time)
        };
        held.answers.retain(|_, kept| current(kept));
        let mut bytes: usize = held
            .answers
            .values()
            .map(|kept| kept.recording.bytes())
            .sum();
        while bytes > self.limits.bytes {
            let ended = held
                .answers
                .values()
                .filter_map(|kept| Some((kept.recording.ended()?, kept)));
            let Some((_, oldest)) = ended.min_by_key(|(at, _)| *at) else {
                break;
            };
            bytes -= oldest.recording.bytes();
            let id = oldest.head.id.clone();
            held.answers.remove(&id);
        }
        let answers = &held.answers;
        // A claim lives as long as its answer, or as long as somebody tries to get one.
        held.claims.retain(|_, claim| match claim.answer.get() {
            Some(kept) => answers.contains_key(&kept.head.id),
            None => Arc::strong_count(claim) > 1,
        });
    }

    fn locked(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
