//! A collector that is down, hung, or back again costs spans and nothing else.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use stent::trace::{self, Counts, Guard, Protocol, Settings, spans};
use tracing::{Dispatch, dispatcher};
use tracing_subscriber::layer::SubscriberExt;

use crate::support::otlp::Receiver;
use crate::support::server::{Server, free_port};

/// More than the queue holds.
const SPANS: u64 = 20_000;
const QUEUE: u64 = 4096;

fn set_up(otlp: String, protocol: Protocol) -> (Dispatch, Guard) {
    let settings = Settings {
        otlp,
        protocol,
        ..Settings::default()
    };
    let (layer, guard) = trace::exporting(&settings).unwrap();
    (
        Dispatch::new(tracing_subscriber::registry().with(layer)),
        guard,
    )
}

/// Ends many spans, then closes; neither may wait for the collector.
fn never_waits(otlp: String, protocol: Protocol) {
    let (dispatch, guard) = set_up(otlp, protocol);
    let counts = guard.counts();
    let start = Instant::now();
    dispatcher::with_default(&dispatch, || {
        for _ in 0..SPANS {
            drop(spans::policy_reload("a.wasm"));
        }
    });
    let took = start.elapsed();
    // One wait for the collector would be 3 s.
    assert!(took < Duration::from_secs(2), "{SPANS} spans took {took:?}");
    // What does not fit is counted at once, not at the end.
    assert!(counts.dropped() >= SPANS - QUEUE, "{counts:?}");
    let start = Instant::now();
    guard.close();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "closing took {took:?}");
    assert_eq!(counts.ended(), SPANS);
    assert_all_lost(&counts);
}

fn assert_all_lost(counts: &Counts) {
    assert_eq!((counts.exported(), counts.dropped()), (0, counts.ended()));
}

/// An address that nobody listens on.
fn nobody() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

#[test]
fn a_missing_collector_is_not_waited_for() {
    never_waits(nobody(), Protocol::Grpc);
    never_waits(nobody(), Protocol::Http);
}

#[test]
fn a_hung_collector_is_not_waited_for() {
    // Connections are accepted by the kernel and never answered.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", deaf.local_addr().unwrap());
    never_waits(address.clone(), Protocol::Grpc);
    never_waits(address, Protocol::Http);
}

#[test]
fn what_is_sent_and_what_is_lost_is_counted() {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let receiver = Receiver::start(protocol);
        let address = receiver.endpoint();
        let (dispatch, guard) = set_up(address.clone(), protocol);
        let one_span = || {
            dispatcher::with_default(&dispatch, || {
                let span = spans::policy_reload("a.wasm");
                trace::trace_id(&span).unwrap()
            })
        };
        let first = one_span();
        guard.flush();
        assert_eq!(receiver.trace(&first, 1).len(), 1);
        assert_eq!(receiver.schemas(), [trace::semconv::SCHEMA_URL]);
        assert_eq!(
            (guard.counts().exported(), guard.counts().dropped()),
            (1, 0)
        );
        guard.close();
    }
    let (dispatch, guard) = set_up(nobody(), Protocol::Grpc);
    dispatcher::with_default(&dispatch, || drop(spans::policy_reload("a.wasm")));
    guard.flush();
    assert_eq!(
        (guard.counts().exported(), guard.counts().dropped()),
        (0, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_outlives_every_trouble_of_its_collector_over_grpc() {
    outlives(Protocol::Grpc, "telemetry.protocol=grpc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_outlives_every_trouble_of_its_collector_over_http() {
    outlives(Protocol::Http, "telemetry.protocol=http").await;
}

/// A real gateway whose collector is down, comes, is slow and goes again.
async fn outlives(protocol: Protocol, set: &str) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let endpoint = format!("telemetry.otlp=http://{address}");
    let sets = ["engine.kind=scripted", "cache.store=off", &endpoint, set];
    let mut server = Server::start(&sets).await;
    let told = |server: &Server, what: &str| server.log().matches(what).count();
    let (failed, back) = ("the trace collector failed", "the trace collector is back");

    // Down: more than one batch is lost, each span is counted, and one line tells of it.
    for n in 0..50 {
        server.chat("hello", &format!("down-{n}")).await;
    }
    server
        .until("the spans are lost", async |s| {
            s.gauge("stent_spans_dropped_total").await >= 500
        })
        .await;
    assert_eq!(
        (told(&server, failed), told(&server, back)),
        (1, 0),
        "{}",
        server.log()
    );

    // Back, and slow: the later spans arrive.
    let listener = TcpListener::bind(address).unwrap();
    let receiver = Receiver::on(listener, protocol, Duration::from_millis(500));
    server
        .until("it is told", async |s| {
            s.chat("hello", "anybody").await;
            s.log().contains(back)
        })
        .await;
    let answer = server.chat("hello", "back").await;
    let trace = answer["stent"]["trace_id"].as_str().unwrap().to_owned();
    let (receiver, root) = tokio::task::spawn_blocking(move || {
        let root = receiver.server(&trace);
        (receiver, root)
    })
    .await
    .unwrap();
    assert_eq!(root.name, "POST /chat");

    // Gone again: a second line, and an end that waits for nobody.
    drop(receiver);
    server.chat("hello", "gone").await;
    server
        .until("it is told again", async |s| told(s, failed) == 2)
        .await;
    let start = Instant::now();
    server.terminate();
    assert_eq!(server.ended().await, 0, "{}", server.log());
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "the end took {took:?}");
}

/// A real process whose collector takes connections and never answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_a_hung_collector_serves_and_ends_in_time() {
    for protocol in ["grpc", "http"] {
        let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("telemetry.otlp=http://{}", deaf.local_addr().unwrap());
        let protocol = format!("telemetry.protocol={protocol}");
        let sets = [
            "engine.kind=scripted",
            "cache.store=off",
            &endpoint,
            &protocol,
        ];
        let mut server = Server::start(&sets).await;
        // Nobody waits for the collector, which takes 3 s of each batch. So few requests never fill
        // the queue: what is dropped are batches, one after the other.
        let (mut all, mut lost) = (Vec::new(), vec![0]);
        while lost.len() < 4 {
            let start = Instant::now();
            server.chat("hello", &format!("hung-{}", all.len())).await;
            all.push(start.elapsed());
            let dropped = server.gauge("stent_spans_dropped_total").await;
            if dropped > lost[lost.len() - 1] {
                lost.push(dropped);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        all.sort_unstable();
        let (median, most) = (all[all.len() / 2], all[all.len() - 1]);
        assert!(
            median < Duration::from_millis(500) && most < Duration::from_secs(3),
            "{protocol}: {all:?}"
        );
        // Each lost batch was counted, and one line tells of them.
        let told = server.log().matches("the trace collector failed").count();
        assert_eq!(told, 1, "{}", server.log());
        let start = Instant::now();
        server.terminate();
        assert_eq!(server.ended().await, 0, "{}", server.log());
        let took = start.elapsed();
        println!("{protocol}: the end took {took:?}");
        assert!(
            took < Duration::from_secs(5),
            "{protocol}: the end took {took:?}"
        );
    }
}

#[test]
fn a_trace_that_is_not_sampled_is_neither_sent_nor_lost() {
    let receiver = Receiver::start(Protocol::Grpc);
    let settings = Settings {
        otlp: receiver.endpoint(),
        sample: 0.0,
        ..Settings::default()
    };
    let (layer, guard) = trace::exporting(&settings).unwrap();
    let counts = guard.counts();
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
    let id = dispatcher::with_default(&dispatch, || {
        trace::trace_id(&spans::policy_reload("a.wasm"))
    });
    assert!(id.is_some(), "logs and answers still name the trace");
    guard.close();
    assert_eq!(
        (counts.ended(), counts.exported(), counts.dropped()),
        (0, 0, 0)
    );
}

#[test]
fn wrong_settings_name_the_key_and_the_value() {
    let error = |settings: Settings| settings.validate().unwrap_err().to_string();
    let otlp = |otlp: &str| {
        error(Settings {
            otlp: otlp.to_owned(),
            ..Settings::default()
        })
    };
    assert!(otlp("localhost:4317").starts_with("telemetry.otlp: \"localhost:4317\""));
    assert!(otlp("http://").starts_with("telemetry.otlp: \"http://\""));
    let sample = error(Settings {
        sample: 1.5,
        ..Settings::default()
    });
    assert_eq!(
        sample,
        "telemetry.sample: 1.5 is out of range, expected 0 to 1"
    );
}
