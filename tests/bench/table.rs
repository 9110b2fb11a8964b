//! Figures, targets, table and JSON.

use std::time::{Duration, Instant};

use stent::bench::answer::{Answer, Usage};
use stent::bench::figures::{Figure, Rule, Samples, median, percentile};
use stent::bench::loads::streams::{steady, together};
use stent::bench::memory::{self, Held};
use stent::bench::report::{Column, Report};
use stent::bench::texts::Texts;
use stent::bench::{Drive, Error, Load, Memory};

use super::mock::{Mock, Script};

#[test]
fn medians_and_percentiles_of_few_values() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
    assert_eq!(percentile(&hundred, 95), Some(95.0));
    assert_eq!(percentile(&[7.0], 95), Some(7.0));
    assert_eq!(percentile(&[], 95), None);
}

#[test]
fn rates_of_two_answers_that_overlap() {
    let zero = Instant::now();
    let at = |millis| zero + Duration::from_millis(millis);
    let answer = |pieces: &[u64], completion_tokens| Answer {
        sent: zero,
        pieces: pieces.iter().map(|millis| at(*millis)).collect(),
        ended: at(9999),
        text: "x".into(),
        finish: None,
        usage: Some(Usage {
            prompt_tokens: 1,
            completion_tokens,
        }),
    };
    // Both run from 300 to 500: two pieces of one token here, one piece of two tokens there.
    let both = [
        answer(&[100, 200, 300, 400, 500], 5),
        answer(&[300, 450, 600, 1000], 8),
    ];
    assert_eq!(both[0].first(), Duration::from_millis(100));
    assert_eq!(steady(&both), Some(4.0 / 0.2));
    assert_eq!(together(&both), 13.0 / 1.0);
    assert_eq!(steady(&both[..1]), Some(4.0 / 0.4));
    let apart = [answer(&[100, 200], 2), answer(&[300, 400], 2)];
    assert_eq!(steady(&apart), None);
}

#[test]
fn rules_compare_with_what_they_name() {
    let peer: Samples = [(Figure::WorstGap, vec![12.8]), (Figure::CalmGap, vec![0.1])].into();
    let rule = Figure::WorstGap.rule().unwrap();
    assert_eq!(rule, Rule::AtMostPeers(3.5, Figure::CalmGap));
    assert_eq!(rule.met(Figure::WorstGap, 0.34, &peer), Some(true));
    assert_eq!(rule.met(Figure::WorstGap, 0.36, &peer), Some(false));
    assert_eq!(
        Rule::AtMostPeer(0.5).met(Figure::PeopleP95, 1.0, &peer),
        None
    );
    assert_eq!(
        Rule::AtLeastPeer(1.1).met(Figure::CalmGap, 0.12, &peer),
        Some(true)
    );
    assert_eq!(
        Rule::AtMost(0.0).met(Figure::PeopleErrors, 0.0, &Samples::new()),
        Some(true)
    );
}

fn column(url: &str, samples: Samples) -> Column {
    Column {
        url: url.into(),
        model: "/models/shape".into(),
        samples,
    }
}

#[test]
fn the_table_puts_both_side_by_side() {
    let four = Figure::Together { streams: 4 };
    let ours = [
        (four, vec![34.0, 36.0, 35.0]),
        (Figure::WorstGap, vec![0.5]),
    ]
    .into();
    let theirs = [
        (four, vec![31.0]),
        (Figure::WorstGap, vec![12.8]),
        (Figure::CalmGap, vec![0.1]),
    ];
    let report = Report {
        columns: vec![
            column("http://a:1", ours),
            column("http://b:2", theirs.into()),
        ],
        seed: 9,
        quick: false,
        notes: vec!["one remark".into()],
    };
    assert_eq!(report.missed(), (1, 2));
    insta::assert_snapshot!(report.to_string(), @r"
    server http://a:1  shape
    peer   http://b:2  shape

                                                server        peer       ratio  target
    4 streams: together                       35.0 t/s    31.0 t/s      1.13 x  ≥ 1.1 x peer: met

    3 streams: gap, median                           -      100 ms           -
    long prompt arrives: worst gap              500 ms     12.80 s      0.04 x  ≤ 3.5 x peer's gap: MISSED

    note: one remark
    seed 9
    ");
    let json = report.json();
    assert_eq!(
        json["figures"][0]["samples"],
        serde_json::json!([[34.0, 36.0, 35.0], [31.0]])
    );
    assert_eq!(json["figures"][2]["met"], false);
}

#[test]
fn texts_depend_on_seed_and_part_alone() {
    let text = |seed, part| Texts::new(seed, part).question(45);
    assert_eq!(text(1, 2), text(1, 2));
    assert_ne!(text(1, 2), text(1, 3));
    assert_ne!(text(1, 2), text(2, 2));
    assert_eq!(text(1, 2).split(' ').count(), 45);
}

#[test]
fn memory_is_read_as_the_kernel_writes_it() {
    let status = "Name:\tstent\nVmLck:\t  524288 kB\nVmRSS:\t 1572864 kB\n";
    assert_eq!(
        memory::parse(status),
        Some(Held {
            resident: 1.5,
            locked: 0.5
        })
    );
    assert_eq!(memory::parse("Name:\tkthreadd\n"), None);
}

fn drive(url: &str, peer: Option<&str>, json: &std::path::Path) -> Drive {
    Drive {
        url: url.into(),
        peer: peer.map(str::to_owned),
        json: Some(json.into()),
        only: vec![Load::Repeating],
        quick: true,
        reps: Some(1),
        seed: Some(3),
        memory: Memory::History,
        api_key: None,
        pid: Some(std::process::id()),
        peer_pid: None,
        check: true,
    }
}

/// The whole command: a server twice as fast as its peer meets what it must reach, and the
/// other way round it does not.
#[tokio::test]
async fn the_faster_of_two_servers_is_the_faster_in_the_json() {
    let pace = |millis| Script {
        pace: Duration::from_millis(millis),
        ..Script::default()
    };
    let (fast, slow) = (Mock::start(pace(10)).await, Mock::start(pace(30)).await);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("bench.json");
    let run = drive(&fast.url, Some(&slow.url), &out);
    stent::bench::run::drive(&run).await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(
        json["figures"][0]["figure"],
        "one stream, answer repeats the prompt"
    );
    assert!(
        json["figures"][0]["ratio"].as_f64().unwrap() > 1.3,
        "{json}"
    );
    assert_eq!(json["figures"][1]["figure"], "memory: resident");
    let error = stent::bench::run::drive(&drive(&slow.url, Some(&fast.url), &out)).await;
    assert!(
        matches!(error, Err(Error::Missed { missed: 1, all: 1 })),
        "{error:?}"
    );
}

#[tokio::test]
async fn addresses_that_cannot_work_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (url, problem) in [
        ("https://x", "https is not supported"),
        ("localhost:80", "not a URL"),
        ("http://x/v1/", "ends in /v1, which is added by itself"),
    ] {
        let error = stent::bench::run::drive(&drive(url, None, &folder.path().join("x"))).await;
        let expected =
            format!("{url}: {problem}, expected an http:// address such as http://127.0.0.1:8080");
        assert_eq!(error.unwrap_err().to_string(), expected);
    }
}
