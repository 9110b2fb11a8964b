//! One thread owns all writing. What is asked while it waits for the disk shares the next commit:
//! a commit costs the same for one exchange and for a hundred.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::Database;
use tokio::sync::oneshot;

use super::file::File;
use super::tables::{Limits, Tables};
use super::{Handle, failed};
use crate::session::error::SessionError;
use crate::session::record::now_ms;

/// Most changes in one commit.
const GROUP: usize = 512;
/// How often it is looked for what has expired while nobody writes.
const SWEEP: Duration = Duration::from_secs(30);
/// How often a file that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The way to the thread. Dropping it waits until everything is written.
pub struct Writer {
    queue: Mutex<Option<mpsc::Sender<Box<dyn Change>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

struct Shared {
    sessions: AtomicU64,
    /// Why the last commit failed; `None` since the last one that did not.
    failed: Mutex<Option<String>>,
}

/// What is to be done in a commit, and who is told once it is durable.
trait Change: Send {
    fn make(&mut self, tables: &mut Tables<'_>) -> Result<(), redb::Error>;
    fn tell(self: Box<Self>, error: Option<SessionError>);
}

struct Asked<F, T> {
    work: Option<F>,
    made: Option<T>,
    reply: oneshot::Sender<Result<T, SessionError>>,
}

impl<F, T> Change for Asked<F, T>
where
    F: FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send,
    T: Send,
{
    fn make(&mut self, tables: &mut Tables<'_>) -> Result<(), redb::Error> {
        if let Some(work) = self.work.take() {
            self.made = Some(work(tables)?);
        }
        Ok(())
    }

    fn tell(self: Box<Self>, error: Option<SessionError>) {
        let result = match (error, self.made) {
            (None, Some(made)) => Ok(made),
            (error, _) => Err(error.unwrap_or_else(stopped)),
        };
        // Whoever asked may have left.
        let _ = self.reply.send(result);
    }
}

fn stopped() -> SessionError {
    SessionError::Store {
        kind: "stopped",
        why: "it is closed".into(),
    }
}

impl Writer {
    pub fn start(
        file: File,
        database: Handle,
        limits: Limits,
        sessions: u64,
    ) -> Result<Self, SessionError> {
        let shared = Arc::new(Shared {
            sessions: sessions.into(),
            failed: Mutex::default(),
        });
        let (queue, changes) = mpsc::channel();
        let scribe = Scribe {
            file,
            database,
            limits,
            shared: Arc::clone(&shared),
            swept: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("sessions".into())
            .spawn(move || scribe.run(&changes))
            .map_err(|e| SessionError::Open(format!("the sessions' thread cannot start: {e}")))?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
            shared,
        })
    }

    /// Hands a change to the thread and waits until it is durable.
    pub async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, SessionError> {
        let told = self.send(work).ok_or_else(stopped)?;
        told.await.map_err(|_| stopped())?
    }

    /// Finds out whether the file still works.
    pub fn look(&self) {
        drop(self.send(|tables| tables.touch()));
    }

    /// `None` when it is closed.
    fn send<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send + 'static,
    ) -> Option<oneshot::Receiver<Result<T, SessionError>>> {
        let (reply, told) = oneshot::channel();
        let change = Asked {
            work: Some(work),
            made: None,
            reply,
        };
        let sent = locked(&self.queue).as_ref()?.send(Box::new(change));
        sent.ok().map(|()| told)
    }

    pub fn count(&self) -> u64 {
        self.shared.sessions.load(Ordering::Relaxed)
    }

    pub fn trouble(&self) -> Option<String> {
        locked(&self.shared.failed).clone()
    }

    /// What a request is told meanwhile.
    pub fn failed(&self) -> SessionError {
        SessionError::Store {
            kind: "io",
            why: self.trouble().unwrap_or_else(|| "it is opened anew".into()),
        }
    }

    pub async fn close(&self) {
        if let Some(thread) = self.end() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    fn end(&self) -> Option<JoinHandle<()>> {
        drop(locked(&self.queue).take());
        locked(&self.thread).take()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(thread) = self.end() {
            // Nothing panics there; were it so, there would be nothing left to wait for.
            let _ = thread.join();
        }
    }
}

struct Scribe {
    file: File,
    database: Handle,
    limits: Limits,
    shared: Arc<Shared>,
    swept: Instant,
}

impl Scribe {
    /// Ends when nobody can ask any more, after what was asked is done.
    fn run(mut self, queue: &mpsc::Receiver<Box<dyn Change>>) {
        loop {
            let pause = match locked(&self.shared.failed).is_some() {
                true => RETRY,
                false => SWEEP,
            };
            let mut group = Vec::new();
            match queue.recv_timeout(pause) {
                Ok(change) => group.push(change),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while group.len() < GROUP
                && let Ok(change) = queue.try_recv()
            {
                group.push(change);
            }
            self.serve(group);
        }
    }

    fn serve(&mut self, mut group: Vec<Box<dyn Change>>) {
        let error = self.commit(&mut group).err();
        if let Some(error) = &error {
            tracing::error!(%error, "sessions could not be written");
            self.give_up();
        } else if locked(&self.shared.failed).is_some() {
            tracing::info!("sessions can be written again");
        }
        *locked(&self.shared.failed) = error.as_ref().map(ToString::to_string);
        for change in group {
            change.tell(error.clone());
        }
    }

    fn commit(&mut self, group: &mut [Box<dyn Change>]) -> Result<(), SessionError> {
        let database = self.database()?;
        let sweep = self.swept.elapsed() >= SWEEP;
        // Only what is written tells that it can be.
        let probe = locked(&self.shared.failed).is_some();
        let count = write(&database, self.limits, (sweep, probe), group).map_err(|e| failed(&e))?;
        self.shared.sessions.store(count, Ordering::Relaxed);
        if sweep {
            self.swept = Instant::now();
        }
        Ok(())
    }

    fn database(&self) -> Result<Arc<Database>, SessionError> {
        if let Some(database) = self.database.load_full() {
            return Ok(database);
        }
        let opened = self.file.open().map_err(|error| SessionError::Store {
            kind: "io",
            why: error.to_string(),
        })?;
        let database = Arc::new(opened);
        self.database.store(Some(Arc::clone(&database)));
        Ok(database)
    }

    /// After an I/O error a handle has nothing but errors. It is closed, once its readers are
    /// done, and the next change opens the file anew.
    fn give_up(&self) {
        let mut held = self.database.swap(None);
        while let Some(database) = held.take() {
            match Arc::try_unwrap(database) {
                Ok(database) => drop(database.close()),
                Err(database) => {
                    std::thread::sleep(Duration::from_millis(1));
                    held = Some(database);
                }
            }
        }
    }
}

/// One durable commit of a group's changes; how many sessions there are then.
fn write(
    database: &Database,
    limits: Limits,
    (sweep, probe): (bool, bool),
    group: &mut [Box<dyn Change>],
) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let (count, changed) = {
        let mut tables = Tables::open(&transaction, limits, now_ms())?;
        // First: nobody goes on with what has expired.
        let mut gone = tables.expire()?;
        for change in group.iter_mut() {
            change.make(&mut tables)?;
        }
        gone += tables.shrink()?;
        if sweep {
            gone += tables.sweep()?;
        }
        if probe {
            tables.touch()?;
        }
        (tables.count()?, probe || gone > 0 || !group.is_empty())
    };
    if changed {
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(count)
}

/// A poisoned lock is taken all the same: what it holds is replaced as a whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
