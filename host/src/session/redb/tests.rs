//! A disk that fails for a while.

use std::fs::OpenOptions;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redb::backends::FileBackend;
use redb::{BackendError, Builder, ConcurrencyMode, StorageBackend};

use super::*;
use crate::session::record::Text;
use crate::types::{Role, SessionId, TenantId};

/// The file, which has no room while `full` is set.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.file.sync_data(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

fn added(record: Arc<Record>) -> Addition {
    Addition {
        record,
        replaces: false,
    }
}

fn record(exchange: u32) -> Arc<Record> {
    let text = |role| Text {
        role,
        text: "x".into(),
        tokens: Arc::from([1]),
        pinned: false,
    };
    Arc::new(Record {
        exchange,
        at_ms: now_ms(),
        anchor: None,
        model: "m".into(),
        question: text(Role::User),
        answer: text(Role::Assistant),
    })
}

#[tokio::test]
async fn a_file_that_failed_is_opened_anew_and_has_what_was_told_to_be_kept() {
    let data = tempfile::tempdir().unwrap();
    let (full, opened) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let file = {
        let (full, opened) = (Arc::clone(&full), Arc::clone(&opened));
        File::of(data.path()).unwrap().with(Box::new(move |path| {
            opened.fetch_add(1, Ordering::SeqCst);
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            let disk = Disk {
                file: FileBackend::new(file)?,
                full: Arc::clone(&full),
            };
            let mut builder = Builder::new();
            builder.set_concurrency_mode(ConcurrencyMode::MultiWriter);
            Ok(builder.create_with_backend(disk)?)
        }))
    };
    let store = Redb::with(file, &Settings::default(), data.path(), Keys::none()).unwrap();
    let key = SessionKey {
        tenant: TenantId::default(),
        session: SessionId::parse("s").unwrap(),
    };
    let begin = async || store.begin(&key).await.map(|begun| begun.unwrap());
    let lease = begin().await.unwrap().lease;
    store.append(&key, lease, added(record(0))).await.unwrap();

    let begun = begin().await.unwrap();
    full.store(true, Ordering::SeqCst);
    let error = store.append(&key, begun.lease, added(record(1))).await;
    assert_eq!(error.unwrap_err().kind(), "io");
    assert!(store.trouble().is_some());
    // Refused before anything is generated for it.
    assert_eq!(begin().await.err().unwrap().kind(), "io");

    full.store(false, Ordering::SeqCst);
    let start = Instant::now();
    while store.trouble().is_some() {
        assert!(start.elapsed() < Duration::from_secs(30), "not opened anew");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(opened.load(Ordering::SeqCst) >= 2);
    let begun = begin().await.unwrap();
    // What failed may be there all the same; what was kept is.
    let there: Vec<u32> = begun.records.iter().map(|r| r.exchange).collect();
    assert!(there == [0] || there == [0, 1], "{there:?}");
    let next = u32::try_from(there.len()).unwrap();
    let (stored, _) = store
        .append(&key, begun.lease, added(record(next)))
        .await
        .unwrap();
    assert_eq!(stored, Stored::Kept);
}

/// More than one commit takes: the rest waits for the next one.
#[tokio::test]
async fn of_many_changes_at_once_none_is_lost() {
    let data = tempfile::tempdir().unwrap();
    let store = Redb::open(&Settings::default(), data.path(), Keys::none()).unwrap();
    let changes = (0..2000).map(|_| store.writer.change(|tables| tables.touch()));
    let lost = futures::future::join_all(changes).await;
    let lost = lost.into_iter().filter_map(Result::err).count();
    assert_eq!(lost, 0);
}
