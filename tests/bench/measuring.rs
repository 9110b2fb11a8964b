//! Each load, on servers whose figures are known. A server is never faster than its pace; how much
//! slower it is depends on the machine, so that bounds on that side are wide.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stent::bench::Memory;
use stent::bench::client::Client;
use stent::bench::figures::Figure;
use stent::bench::loads::{Findings, Load, Round, Scale, Server};

use super::mock::{End, Mock, Script};

fn scale() -> Scale {
    Scale {
        answer: 12,
        calm_pieces: 5,
        sessions: 3,
        turns: 6,
        turn_answer: 2,
        think: Duration::from_millis(40),
        people_for: Duration::from_millis(400),
        settle: Duration::ZERO,
        ..Scale::full()
    }
}

async fn measure(mock: &Mock, memory: Memory, load: Load) -> Findings {
    let client = Client::connect(&mock.url, None).await.unwrap();
    let server = Server { client, memory };
    let round = Round {
        server: &server,
        scale: &scale(),
        seed: 1,
        rep: 0,
    };
    load.measure(&round).await.unwrap()
}

fn figures(found: &Findings) -> BTreeMap<Figure, f64> {
    found.samples.iter().copied().collect()
}

#[tokio::test]
async fn streams_run_side_by_side_at_their_pace() {
    let pace = Duration::from_millis(40);
    let mock = Mock::start(Script {
        pace,
        ..Script::default()
    })
    .await;
    let found = figures(&measure(&mock, Memory::History, Load::Streams).await);
    for streams in 1..=4 {
        let most = f64::from(streams) / pace.as_secs_f64();
        let steady = found[&Figure::Steady { streams }];
        assert!(
            steady > most * 0.3 && steady < most * 1.3,
            "{streams} streams: {steady}"
        );
        let together = found[&Figure::Together { streams }];
        assert!(together <= most, "{streams} streams: {together}");
        assert!(found[&Figure::First { streams }] >= pace.as_secs_f64());
    }
    assert_eq!(mock.seen.most_running.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_long_prompt_that_stops_the_others_is_seen() {
    let script = Script {
        // Slow enough that a client on a busy machine still reads most pieces one by one.
        pace: Duration::from_millis(40),
        long_prompt: Duration::from_millis(400),
        ..Script::default()
    };
    let mock = Mock::start(script).await;
    let found = measure(&mock, Memory::History, Load::LongPrompt).await;
    let figures = figures(&found);
    assert!(figures[&Figure::WorstGap] >= 0.39, "{figures:?}");
    assert!(figures[&Figure::LongFirst] >= 0.4, "{figures:?}");
    let calm = figures[&Figure::CalmGap];
    // A client that was kept waiting reads two pieces at once: the median can lie below the pace.
    assert!(
        calm >= 0.002 && calm < figures[&Figure::WorstGap] / 2.0,
        "{figures:?}"
    );
    assert_eq!(found.notes, Vec::<String>::new());
}

#[tokio::test]
async fn sessions_keep_three_exchanges_and_two_run_at_a_time() {
    let mock = Mock::start(Script::default()).await;
    let found = figures(&measure(&mock, Memory::History, Load::Sessions).await);
    assert_eq!(
        found
            .keys()
            .filter(|figure| matches!(figure, Figure::Turn(_)))
            .count(),
        6
    );
    assert!(found.contains_key(&Figure::Sliding));
    assert_eq!(mock.seen.most_running.load(Ordering::SeqCst), 2);
    let bodies = mock.seen.bodies.lock().unwrap();
    let mut lengths: Vec<usize> = bodies
        .iter()
        .map(|body| body["messages"].as_array().unwrap().len())
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    assert_eq!(lengths, [1, 3, 5, 7]);
    let last = bodies.last().unwrap()["messages"].as_array().unwrap();
    let roles: Vec<&str> = last
        .iter()
        .map(|turn| turn["role"].as_str().unwrap())
        .collect();
    assert_eq!(
        roles,
        [
            "user",
            "assistant",
            "user",
            "assistant",
            "user",
            "assistant",
            "user"
        ]
    );
    assert_eq!(last[1]["content"], " wörd1 wörd2");
}

#[tokio::test]
async fn a_server_that_remembers_gets_only_the_new_message() {
    let mock = Mock::start(Script::default()).await;
    measure(&mock, Memory::Stored, Load::Sessions).await;
    let bodies = mock.seen.bodies.lock().unwrap();
    assert!(
        bodies
            .iter()
            .all(|body| body["messages"].as_array().unwrap().len() == 1)
    );
    let names: std::collections::BTreeSet<&str> = bodies
        .iter()
        .map(|body| body["session_id"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 3);
}

#[tokio::test]
async fn eight_identical_questions_are_identical() {
    let mock = Mock::start(Script::default()).await;
    let found = figures(&measure(&mock, Memory::History, Load::Identical).await);
    assert!(
        found[&Figure::Alone] >= 0.12 && found[&Figure::Eight] >= 0.12,
        "{found:?}"
    );
    let bodies = mock.seen.bodies.lock().unwrap();
    assert_eq!(bodies.len(), 9);
    assert_ne!(bodies[0], bodies[1]);
    assert!(bodies[1..].iter().all(|body| *body == bodies[1]));
}

#[tokio::test]
async fn the_answer_is_quoted_where_it_shall_be_repeated() {
    let mock = Mock::start(Script::default()).await;
    let found = measure(&mock, Memory::History, Load::Repeating).await;
    assert!(figures(&found).contains_key(&Figure::Repeating));
    assert_eq!(found.notes, Vec::<String>::new());
    let bodies = mock.seen.bodies.lock().unwrap();
    let prompt = bodies[1]["messages"][0]["content"].as_str().unwrap();
    assert!(prompt.contains("Repeat: wörd1 wörd2 wörd3"), "{prompt}");
}

#[tokio::test]
async fn people_are_counted_and_so_are_their_errors() {
    let mock = Mock::start(Script::default()).await;
    let found = figures(&measure(&mock, Memory::History, Load::People).await);
    assert!(found[&Figure::PeopleAnswers] >= 12.0, "{found:?}");
    assert_eq!(found[&Figure::PeopleErrors], 0.0);
    assert!(found[&Figure::PeopleP95] >= found[&Figure::PeopleMedian]);

    let refusing = Mock::start(Script {
        end: End::Refuse,
        ..Script::default()
    })
    .await;
    let found = measure(&refusing, Memory::History, Load::People).await;
    let figures = figures(&found);
    assert_eq!(figures[&Figure::PeopleAnswers], 0.0);
    let errors = figures[&Figure::PeopleErrors];
    assert!(errors >= 12.0);
    let note = format!("{errors} x the server answered 429 Too Many Requests: the queue is full");
    assert_eq!(found.notes, [note]);
}
