//! What every store has to do, asked of all of them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stent::session::{Exchange, OnBusy, SessionError, Sessions, Settings, Where};
use stent::types::{Message, Role, SessionId, SessionKey, TenantId};

use crate::support::redis::RedisServer;

pub fn exchange(text: &str) -> Exchange {
    let message = |role, text: String| Message {
        id: 0,
        role,
        text: text.into(),
        tokens: Arc::from([1, 2]),
        pinned: false,
        exchange: 0,
    };
    Exchange {
        question: message(Role::User, text.to_owned()),
        answer: message(Role::Assistant, format!("{text}!")),
        anchor: Some(7),
        model: "model".into(),
    }
}

pub fn key(tenant: &str, session: &str) -> SessionKey {
    SessionKey {
        tenant: TenantId::new(tenant),
        session: SessionId::parse(session).unwrap(),
    }
}

pub async fn add(sessions: &Sessions, key: &SessionKey, text: &str) -> &'static str {
    let opened = sessions.open_for(key.clone()).await.unwrap();
    sessions
        .append(opened.writer, exchange(text))
        .await
        .unwrap()
        .result
}

pub async fn texts(sessions: &Sessions, key: &SessionKey) -> Vec<String> {
    let session = sessions.load(key).await.unwrap();
    session
        .messages
        .iter()
        .map(|m| m.text.to_string())
        .collect()
}

pub fn open(store: &Where, data: &Path, change: impl FnOnce(&mut Settings)) -> Sessions {
    let mut settings = Settings {
        store: store.clone(),
        timeout: Duration::from_secs(10),
        ..Settings::default()
    };
    change(&mut settings);
    settings.check().unwrap();
    Sessions::open(&settings, data).unwrap()
}

/// Does the same to every store, each in a folder and on a server of its own.
pub async fn each(test: impl AsyncFn(&Where, &Path)) {
    let server = RedisServer::start();
    for store in [
        Where::Memory,
        Where::Redb,
        Where::Redis(server.url().parse().unwrap()),
    ] {
        let folder = tempfile::tempdir().unwrap();
        eprintln!("{store}");
        test(&store, folder.path()).await;
    }
}

#[tokio::test]
async fn exchanges_come_back_in_order_with_rising_ids() {
    each(async |store, data| {
        let sessions = open(store, data, |_| {});
        let key = key("t", "s");
        assert_eq!(sessions.load(&key).await.unwrap().next(), (0, 0));
        for text in ["one", "two"] {
            assert_eq!(add(&sessions, &key, text).await, "ok");
        }
        let session = sessions.load(&key).await.unwrap();
        let told: Vec<_> = session
            .messages
            .iter()
            .map(|m| (m.id, m.exchange, &*m.text, m.role, m.tokens.to_vec()))
            .collect();
        let (user, model) = (Role::User, Role::Assistant);
        let tokens = || vec![1, 2];
        assert_eq!(
            told,
            [
                (0, 0, "one", user, tokens()),
                (1, 0, "one!", model, tokens()),
                (2, 1, "two", user, tokens()),
                (3, 1, "two!", model, tokens()),
            ]
        );
        assert_eq!((session.next(), session.anchor), ((4, 2), Some(7)));
        let known = |model| {
            session
                .messages_for(model)
                .filter(|(_, known)| *known)
                .count()
        };
        assert_eq!((known("model"), known("another")), (4, 0));
    })
    .await;
}

#[tokio::test]
async fn neither_another_tenant_nor_another_session_sees_it() {
    each(async |store, data| {
        let sessions = open(store, data, |_| {});
        add(&sessions, &key("a", "s"), "secret").await;
        for other in [
            key("b", "s"),
            key("a", "t"),
            key("a", "s2"),
            key("a/s", "s"),
            key("", "s"),
        ] {
            assert_eq!(texts(&sessions, &other).await, [""; 0], "{other:?}");
            assert!(!sessions.forget(&other).await.unwrap());
        }
        assert!(sessions.forget(&key("a", "s")).await.unwrap());
        assert_eq!(texts(&sessions, &key("a", "s")).await, [""; 0]);
        assert!(!sessions.forget(&key("a", "s")).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn the_oldest_exchanges_go_when_there_are_too_many() {
    each(async |store, data| {
        let sessions = open(store, data, |s| s.max_exchanges = 2);
        let key = key("t", "s");
        for text in ["one", "two", "three", "four"] {
            add(&sessions, &key, text).await;
        }
        assert_eq!(
            texts(&sessions, &key).await,
            ["three", "three!", "four", "four!"]
        );
        assert_eq!(sessions.load(&key).await.unwrap().next(), (8, 4));
    })
    .await;
}

#[tokio::test]
async fn a_session_is_forgotten_some_time_after_its_last_exchange() {
    each(async |store, data| {
        let sessions = open(store, data, |s| s.ttl = Duration::from_millis(300));
        let key = key("t", "s");
        add(&sessions, &key, "one").await;
        let start = Instant::now();
        while !texts(&sessions, &key).await.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(30), "still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!sessions.forget(&key).await.unwrap());
        // A new conversation begins.
        add(&sessions, &key, "two").await;
        assert_eq!(texts(&sessions, &key).await, ["two", "two!"]);
        assert_eq!(sessions.load(&key).await.unwrap().next(), (2, 1));
    })
    .await;
}

#[tokio::test]
async fn one_writes_at_a_time_and_the_next_sees_what_was_written() {
    each(async |store, data| {
        let sessions = Arc::new(open(store, data, |_| {}));
        let key = key("t", "s");
        let tasks: Vec<_> = (0..20)
            .map(|n| {
                let (sessions, key) = (Arc::clone(&sessions), key.clone());
                tokio::spawn(async move {
                    let opened = sessions.open_for(key).await.unwrap();
                    let seen = opened.session.messages.len();
                    tokio::task::yield_now().await;
                    let added = sessions
                        .append(opened.writer, exchange(&n.to_string()))
                        .await;
                    assert_eq!(added.unwrap().result, "ok");
                    seen
                })
            })
            .collect();
        let mut seen = Vec::new();
        for task in tasks {
            seen.push(task.await.unwrap());
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..40).step_by(2).collect::<Vec<_>>());
        assert_eq!(texts(&sessions, &key).await.len(), 40);
    })
    .await;
}

#[tokio::test]
async fn what_is_forgotten_while_an_answer_is_written_stays_forgotten() {
    each(async |store, data| {
        let sessions = open(store, data, |_| {});
        let key = key("t", "s");
        add(&sessions, &key, "one").await;
        let opened = sessions.open_for(key.clone()).await.unwrap();
        assert!(sessions.forget(&key).await.unwrap());
        let kept = sessions
            .append(opened.writer, exchange("two"))
            .await
            .unwrap();
        assert_eq!(kept.result, "forgotten");
        assert_eq!(texts(&sessions, &key).await, [""; 0]);
        assert_eq!(add(&sessions, &key, "three").await, "ok");
        assert_eq!(texts(&sessions, &key).await, ["three", "three!"]);
    })
    .await;
}

#[tokio::test]
async fn a_writer_that_is_given_up_lets_the_next_one_in() {
    each(async |store, data| {
        let sessions = open(store, data, |s| {
            s.busy_timeout = Duration::from_secs(5);
        });
        let key = key("t", "s");
        drop(sessions.open_for(key.clone()).await.unwrap());
        assert_eq!(add(&sessions, &key, "one").await, "ok");
    })
    .await;
}

/// Two gateways on one store: two processes while one takes over from the other, or two hosts.
pub async fn both(test: impl AsyncFn(Sessions, Sessions)) {
    let server = RedisServer::start();
    for store in [Where::Redb, Where::Redis(server.url().parse().unwrap())] {
        let folder = tempfile::tempdir().unwrap();
        let patient = |s: &mut Settings| s.busy_timeout = Duration::from_secs(30);
        let refusing = |s: &mut Settings| s.on_busy = OnBusy::Refuse;
        eprintln!("{store}");
        let a = open(&store, folder.path(), patient);
        test(a, open(&store, folder.path(), refusing)).await;
    }
}

#[tokio::test]
async fn of_two_gateways_one_writes_at_a_time_to_a_session() {
    both(async |patient, refusing| {
        let key = key("t", "s");
        let writing = refusing.open_for(key.clone()).await.unwrap();
        let mut waiting = Box::pin(patient.open_for(key.clone()));
        assert!(futures::poll!(&mut waiting).is_pending());
        // Another session is in nobody's way.
        add(&patient, &self::key("t", "other"), "x").await;
        refusing
            .append(writing.writer, exchange("one"))
            .await
            .unwrap();
        let opened = waiting.await.unwrap();
        assert_eq!(opened.session.messages.len(), 2);
        let busy = refusing.open_for(key.clone()).await.err().unwrap();
        assert!(matches!(busy, SessionError::Busy { .. }), "{busy}");
        patient
            .append(opened.writer, exchange("two"))
            .await
            .unwrap();
        assert_eq!(add(&refusing, &key, "three").await, "ok");
        assert_eq!(
            texts(&patient, &key).await,
            ["one", "one!", "two", "two!", "three", "three!"]
        );
    })
    .await;
}

#[tokio::test]
async fn what_one_gateway_forgets_another_one_does_not_bring_back() {
    both(async |a, b| {
        let key = key("t", "s");
        add(&a, &key, "one").await;
        let writing = a.open_for(key.clone()).await.unwrap();
        assert!(b.forget(&key).await.unwrap());
        let kept = a.append(writing.writer, exchange("two")).await.unwrap();
        assert_eq!(kept.result, "forgotten");
        assert_eq!(texts(&b, &key).await, [""; 0]);
        assert_eq!(add(&b, &key, "three").await, "ok");
        assert_eq!(texts(&a, &key).await, ["three", "three!"]);
    })
    .await;
}

#[tokio::test]
async fn the_file_keeps_sessions_and_stays_within_its_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let small = |s: &mut Settings| s.max_bytes = 4096;
    let sessions = open(&Where::Redb, folder.path(), small);
    let name = |n: usize| key("t", &format!("s{n}"));
    for n in 0..40 {
        add(&sessions, &name(n), &"x".repeat(200)).await;
    }
    let held = sessions.count().unwrap();
    assert!((2..20).contains(&held), "{held}");
    assert_eq!(texts(&sessions, &name(0)).await, [""; 0]);
    assert_eq!(texts(&sessions, &name(39)).await.len(), 2);
    drop(sessions);
    let sessions = open(&Where::Redb, folder.path(), small);
    assert_eq!(texts(&sessions, &name(39)).await.len(), 2);
    assert_eq!(sessions.count(), Some(held));
    use std::os::unix::fs::PermissionsExt as _;
    let file = std::fs::metadata(folder.path().join(stent::session::FILE)).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}
