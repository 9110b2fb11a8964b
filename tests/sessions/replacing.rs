//! An exchange in the place of a session's last one, in every store.

use stent::session::{SessionError, Sessions, Where};
use stent::types::SessionKey;

use super::stores::{add, each, exchange, key, open, texts};
use crate::support::redis::RedisServer;

/// Puts an exchange in the place of the last one.
async fn replace(sessions: &Sessions, key: &SessionKey, text: &str) -> &'static str {
    let mut opened = sessions.open_for(key.clone()).await.unwrap();
    opened.writer.replace_last(&opened.session).unwrap();
    let kept = sessions.append(opened.writer, exchange(text)).await;
    kept.unwrap().result
}

#[tokio::test]
async fn the_last_exchange_makes_room_for_another_one_and_no_other_does() {
    each(async |store, data| {
        let sessions = open(store, data, |s| s.max_exchanges = 2);
        let key = key("t", "s");
        let mut opened = sessions.open_for(key.clone()).await.unwrap();
        assert!(opened.writer.replace_last(&opened.session).is_none());
        sessions
            .append(opened.writer, exchange("one"))
            .await
            .unwrap();
        assert_eq!(replace(&sessions, &key, "uno").await, "ok");
        assert_eq!(texts(&sessions, &key).await, ["uno", "uno!"]);
        assert_eq!(sessions.load(&key).await.unwrap().next(), (2, 1));
        for text in ["two", "three"] {
            add(&sessions, &key, text).await;
        }
        // Given up, the old one stays.
        let mut opened = sessions.open_for(key.clone()).await.unwrap();
        let before = opened.writer.replace_last(&opened.session).unwrap();
        assert_eq!((before.messages.len(), before.next()), (2, (4, 2)));
        assert_eq!(before.last_question(), Some("two"));
        drop(opened);
        assert_eq!(
            texts(&sessions, &key).await,
            ["two", "two!", "three", "three!"]
        );
        assert_eq!(replace(&sessions, &key, "tre").await, "ok");
        assert_eq!(replace(&sessions, &key, "drei").await, "ok");
        assert_eq!(add(&sessions, &key, "four").await, "ok");
        assert_eq!(
            texts(&sessions, &key).await,
            ["drei", "drei!", "four", "four!"]
        );
        assert_eq!(sessions.load(&key).await.unwrap().next(), (8, 4));
    })
    .await;
}

#[tokio::test]
async fn what_takes_the_place_of_an_exchange_that_was_forgotten_is_not_kept() {
    each(async |store, data| {
        let sessions = open(store, data, |_| {});
        let key = key("t", "s");
        add(&sessions, &key, "one").await;
        let mut opened = sessions.open_for(key.clone()).await.unwrap();
        opened.writer.replace_last(&opened.session).unwrap();
        assert!(sessions.forget(&key).await.unwrap());
        let kept = sessions.append(opened.writer, exchange("uno")).await;
        assert_eq!(kept.unwrap().result, "forgotten");
        assert_eq!(texts(&sessions, &key).await, [""; 0]);
    })
    .await;
}

/// Its number is there already, so that the lease alone tells whether somebody else has written.
#[tokio::test]
async fn on_redis_nothing_is_replaced_without_the_lease() {
    let server = RedisServer::start();
    let store = Where::Redis(server.url().parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (
        open(&store, folder.path(), |_| {}),
        open(&store, folder.path(), |_| {}),
    );
    let key = key("t", "s");
    add(&a, &key, "one").await;
    let mut late = a.open_for(key.clone()).await.unwrap();
    late.writer.replace_last(&late.session).unwrap();
    assert_eq!(server.ask(&["del", "stent:lease:{t/s}"]), "1");
    assert_eq!(replace(&b, &key, "uno").await, "ok");
    let error = a.append(late.writer, exchange("eins")).await.err();
    assert!(matches!(error, Some(SessionError::Taken)), "{error:?}");
    assert_eq!(texts(&a, &key).await, ["uno", "uno!"]);
}

#[tokio::test]
async fn what_was_replaced_takes_no_room_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let sessions = open(&Where::Redb, folder.path(), |s| s.max_bytes = 4096);
    let (other, key) = (key("t", "other"), key("t", "s"));
    add(&sessions, &other, &"x".repeat(200)).await;
    add(&sessions, &key, &"x".repeat(200)).await;
    for n in 0..40 {
        replace(&sessions, &key, &n.to_string().repeat(100)).await;
    }
    assert_eq!(texts(&sessions, &other).await.len(), 2);
    assert_eq!(texts(&sessions, &key).await.len(), 2);
}
