//! Twenty people, four slots, too little room for all, and some who leave in the middle of an
//! answer: with the demo model, nobody is ever told of another's illness.
//!
//! Each session's marker is the illness it asks about, once. All later questions lean on what the
//! session's own KV remembers ("What are its symptoms?"), so a cell of somebody else's changes the
//! subject.

use serde_json::{Value, json};

use crate::support::server::{Frames, Server};

/// Words that the corpus has in no other of these illnesses' answers. The model knows these by heart;
/// of some others (gout, autism) it speaks as of something else when it is alone, too.
const MARKERS: [&str; 20] = [
    "bronchitis",
    "tuberculosis",
    "leukemia",
    "hypothyroidism",
    "sciatica",
    "gastritis",
    "GERD",
    "appendicitis",
    "obesity",
    "depression",
    "insomnia",
    "ADHD",
    "sinusitis",
    "psoriasis",
    "shingles",
    "mumps",
    "tonsillitis",
    "vertigo",
    "malaria",
    "dengue",
];
const FOLLOW_UPS: [&str; 4] = [
    "What are its symptoms?",
    "What are its causes?",
    "How is it treated?",
    "What are the symptoms?",
];

/// Room for about four sessions of this test: the others wait in RAM.
const TIGHT: [&str; 7] = [
    "engine.n_ctx=512",
    "engine.kv_cells=1400",
    "engine.kv_sessions=4",
    "engine.kv_park_bytes=16MiB",
    "engine.max_tokens=80",
    "engine.threads=1",
    "cache.store=off",
];

fn question(turn: usize, marker: &str) -> String {
    match turn {
        0 => format!("What is {marker}?"),
        _ => FOLLOW_UPS[turn - 1].into(),
    }
}

/// Asks, and leaves after `parts` pieces of text if that is said. The text as far as it was read.
async fn ask(server: &Server, who: usize, turn: usize, parts: Option<usize>) -> String {
    let message = question(turn, MARKERS[who]);
    let body = json!({ "message": message, "session_id": format!("s{who}"), "temperature": 0 });
    let response = server.post("/chat/stream", body).await;
    assert_eq!(response.status(), 200, "{}", server.log());
    let mut frames = Frames::of(response);
    let (mut text, mut seen) = (String::new(), 0);
    while let Some(frame) = frames.next().await {
        let Ok(frame) = serde_json::from_str::<Value>(&frame) else {
            break;
        };
        assert_ne!(frame["type"], "error", "{frame}");
        if let Some(delta) = frame["delta"].as_str() {
            text += delta;
            seen += 1;
        }
        if parts.is_some_and(|parts| seen >= parts) {
            break;
        }
    }
    text
}

fn assert_own(who: usize, text: &str) {
    let words = text.to_lowercase();
    for (other, marker) in MARKERS.iter().enumerate() {
        let foreign = other != who && words.contains(&marker.to_lowercase());
        assert!(!foreign, "{} is told of {marker}: {text}", MARKERS[who]);
    }
}

/// SplitMix64: who leaves, and when.
fn chance(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

#[tokio::test]
async fn nobody_is_told_of_anothers_illness() {
    let server = Server::start(&TIGHT).await;
    let mut random = 7;
    for turn in 0..=FOLLOW_UPS.len() {
        // The first question stays: what follows leans on it.
        let leaves: Vec<_> = (0..MARKERS.len())
            .map(|_| chance(&mut random))
            .map(|n| (turn > 0 && n.is_multiple_of(4)).then_some(n as usize / 4 % 12))
            .collect();
        let asking = leaves.iter().enumerate();
        let asking = asking.map(|(who, leaves)| ask(&server, who, turn, *leaves));
        let texts = futures::future::join_all(asking).await;
        for (who, text) in texts.iter().enumerate() {
            assert_own(who, text);
        }
    }
    server
        .until("those who left are noticed", async |s| {
            s.idle_slots().await == 4
        })
        .await;
    let totals = server.admin("/admin/slots").await["totals"].clone();
    for kind in ["parks", "restores", "reused"] {
        assert!(totals[kind].as_u64().unwrap() >= 20, "{kind}: {totals}");
    }

    // What is remembered is what each would have been told alone, on a server that keeps no KV.
    let alone = Server::start(&[
        "engine.n_ctx=512",
        "engine.kv_sessions=0",
        "engine.max_tokens=80",
        "engine.threads=1",
        "engine.speculation=false",
        "cache.store=off",
    ])
    .await;
    let (mut same, mut other) = (0, Vec::new());
    for (who, marker) in MARKERS.iter().enumerate() {
        let session = server.session(&format!("s{who}")).await;
        let messages = session["messages"].as_array().unwrap().clone();
        assert!(
            messages[1]["text"]
                .as_str()
                .unwrap()
                .to_lowercase()
                .contains(&marker.to_lowercase())
        );
        for pair in messages.chunks(2) {
            let (question, told) = (pair[0]["text"].as_str().unwrap(), &pair[1]["text"]);
            let body =
                json!({ "message": question, "session_id": format!("s{who}"), "temperature": 0 });
            let again: Value = alone.post("/chat", body).await.json().await.unwrap();
            match again["text"] == *told {
                true => same += 1,
                false => other.push((told.clone(), again["text"].clone())),
            }
        }
    }
    // Two answers may be all but equally likely; then the rows beside them decide.
    assert!(
        same >= 60 && other.len() <= same / 20,
        "{same}, but {other:#?}"
    );
}
