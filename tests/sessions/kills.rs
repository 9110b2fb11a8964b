//! kill -9 under load: what was finished is there afterwards, and nothing is there by half.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::server::Server;

const CLIENTS: usize = 4;

/// What each session's client was told is finished, in order.
type Finished = Arc<Mutex<HashMap<String, Vec<String>>>>;

/// Asks one question after another until the server is gone.
async fn ask(
    client: reqwest::Client,
    base: String,
    session: String,
    round: usize,
    finished: Finished,
) {
    for n in 0.. {
        let message = format!("question {round}.{n} of {session}");
        let body = json!({ "message": message, "session_id": session });
        let sent = client
            .post(format!("{base}/chat/stream"))
            .json(&body)
            .send()
            .await;
        let Ok(Ok(text)) = (match sent {
            Ok(response) => Ok(response.text().await),
            Err(error) => Err(error),
        }) else {
            return;
        };
        if text.contains("\"type\":\"finish\"") {
            finished
                .lock()
                .unwrap()
                .entry(session.clone())
                .or_default()
                .push(message);
        }
    }
}

fn check(session: &Value, finished: &[String], kills: usize) {
    let messages = session["messages"].as_array().unwrap();
    let (pairs, half) = messages.as_chunks::<2>();
    assert!(half.is_empty(), "half an exchange");
    let mut stored = Vec::new();
    for [question, answer] in pairs {
        assert_eq!(
            (&question["role"], &answer["role"]),
            (&json!("user"), &json!("assistant"))
        );
        assert_eq!(question["exchange"], answer["exchange"]);
        assert!(!answer["text"].as_str().unwrap().is_empty());
        stored.push(question["text"].as_str().unwrap());
    }
    // What was on its way to its client at a kill may be there as well, once a kill.
    let mut told = finished.iter().peekable();
    let mut more = 0;
    for question in &stored {
        match told.next_if(|told| told == question) {
            Some(_) => {}
            None => more += 1,
        }
    }
    assert_eq!(told.next(), None, "finished and lost, or out of order");
    assert!(more <= kills, "{more} after {kills} kills");
}

fn sets(data: &Path) -> [String; 4] {
    [
        "engine.kind=scripted".to_owned(),
        "engine.seed=random".to_owned(),
        "sessions.max_exchanges=1000000".to_owned(),
        format!("data.dir={}", data.display()),
    ]
}

/// Some people, each with a session of their own.
fn people(server: &Server, name: &str, round: usize, finished: &Finished) -> Vec<JoinHandle<()>> {
    (0..CLIENTS)
        .map(|n| {
            let (client, base) = (server.client.clone(), server.base.clone());
            let session = format!("{name}{n}");
            tokio::spawn(ask(client, base, session, round, Arc::clone(finished)))
        })
        .collect()
}

/// A copy: nothing is locked while a server is asked.
fn told(finished: &Finished) -> HashMap<String, Vec<String>> {
    finished.lock().unwrap().clone()
}

fn count(finished: &Finished) -> usize {
    finished.lock().unwrap().values().map(Vec::len).sum()
}

#[tokio::test]
async fn a_process_that_is_killed_harms_no_other_one_on_the_same_file() {
    const KILLS: usize = 4;
    let data = tempfile::tempdir().unwrap();
    let sets = sets(data.path());
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let (finished, lasting) = (Finished::default(), Finished::default());
    let stays = Server::start(&sets).await;
    let untroubled = people(&stays, "stays", 0, &lasting);
    for round in 0..KILLS {
        let dies = Server::start(&sets).await;
        let tasks = people(&dies, "dies", round, &finished);
        let (mine, others) = (count(&finished) + 10, count(&lasting) + 10);
        dies.until("both answer", async |_| {
            count(&finished) >= mine && count(&lasting) >= others
        })
        .await;
        drop(dies);
        for task in tasks {
            task.await.unwrap();
        }
        // The other one reads what the dead one wrote, and goes on writing.
        for (session, asked) in told(&finished) {
            check(&stays.session(&session).await, &asked, round + 1);
        }
        let more = count(&lasting) + 5;
        stays
            .until("it goes on", async |_| count(&lasting) >= more)
            .await;
    }
    for task in untroubled {
        task.abort();
    }
    for (session, asked) in told(&lasting) {
        check(&stays.session(&session).await, &asked, 1);
    }
}

#[tokio::test]
async fn what_was_finished_survives_kills_in_the_middle_of_load() {
    let kills: usize = std::env::var("STENT_KILLS").map_or(10, |n| n.parse().unwrap());
    let data = tempfile::tempdir().unwrap();
    let sets = sets(data.path());
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let finished = Finished::default();
    let mut before = 0;
    for round in 0..=kills {
        let server = Server::start(&sets).await;
        for (session, asked) in told(&finished) {
            check(&server.session(&session).await, &asked, round);
        }
        if round == kills {
            break;
        }
        let tasks = people(&server, "s", round, &finished);
        // In the middle of something: after a different number of answers each time.
        let enough = before + 5 + fastrand::usize(..20);
        server
            .until("answers come", async |_| count(&finished) >= enough)
            .await;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..5000))).await;
        drop(server);
        for task in tasks {
            task.await.unwrap();
        }
        before = count(&finished);
    }
    assert!(before >= kills * 5, "{before}");
}
