//! The exposition as Prometheus reads it.

use std::sync::Arc;
use std::time::Duration;

use stent::metrics::{Finished, MAX_NAMES, Metrics};
use stent::trace::Outcome;

fn finished(outcome: Outcome) -> Finished<'static> {
    let elapsed = Duration::from_millis(2500);
    Finished {
        ttft: Some(Duration::from_millis(300)),
        output_tokens: 21,
        engine: Some(Duration::from_millis(2499)),
        decode: Some(Duration::from_millis(2000)),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736"),
        ..Finished::plain("POST", "/chat/stream", 200, outcome, elapsed)
    }
}

fn lines(metrics: &Metrics, start: &str) -> Vec<String> {
    let text = metrics.encode().unwrap();
    text.lines()
        .filter(|line| line.starts_with(start))
        .map(str::to_owned)
        .collect()
}

fn line(metrics: &Metrics, start: &str) -> String {
    let found = lines(metrics, start);
    assert_eq!(found.len(), 1, "{start}: {found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn a_request_is_seen_in_every_metric_that_it_concerns() {
    let metrics = Metrics::new("llama_cpp", "demo");
    metrics.request_finished(&finished(Outcome::Ok));
    metrics.run_finished(Duration::from_millis(20), 100, 90, 21);
    let genai = r#"{gen_ai_operation_name="chat",gen_ai_provider_name="llama_cpp",gen_ai_request_model="demo",error_type=""}"#;
    let sum = |name: &str| line(&metrics, &format!("{name}_sum"));
    assert_eq!(
        sum("gen_ai_server_request_duration_seconds"),
        format!("gen_ai_server_request_duration_seconds_sum{genai} 2.5")
    );
    assert_eq!(
        sum("gen_ai_server_time_to_first_token_seconds"),
        format!("gen_ai_server_time_to_first_token_seconds_sum{genai} 0.3")
    );
    // 2 s for the 20 tokens after the first.
    assert_eq!(
        sum("gen_ai_server_time_per_output_token_seconds"),
        format!("gen_ai_server_time_per_output_token_seconds_sum{genai} 0.1")
    );
    assert_eq!(
        line(&metrics, "stent_requests_total"),
        r#"stent_requests_total{route="/chat/stream",outcome="ok"} 1"#
    );
    let overhead = sum("stent_gateway_overhead_seconds");
    assert!(overhead.ends_with(" 0.001"), "{overhead}");
    assert_eq!(
        line(&metrics, "stent_tokens_prefilled_total"),
        "stent_tokens_prefilled_total 10"
    );
    assert_eq!(
        line(&metrics, "stent_tokens_reused_total"),
        "stent_tokens_reused_total 90"
    );
    assert_eq!(
        line(&metrics, "stent_tokens_generated_total"),
        "stent_tokens_generated_total 21"
    );
    assert_eq!(
        sum("stent_queue_wait_seconds"),
        "stent_queue_wait_seconds_sum 0.02"
    );
}

#[test]
fn a_slow_bucket_leads_to_its_trace() {
    let metrics = Metrics::new("llama_cpp", "demo");
    metrics.request_finished(&finished(Outcome::Error));
    let bucket = lines(&metrics, "gen_ai_server_time_to_first_token_seconds_bucket")
        .into_iter()
        .find(|line| line.contains("le=\"0.5\""))
        .unwrap();
    assert!(bucket.contains("error_type=\"error\""), "{bucket}");
    assert!(
        bucket.ends_with(r#"# {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 0.3"#),
        "{bucket}"
    );
}

#[test]
fn gauges_are_read_when_they_are_asked_for() {
    let metrics = Metrics::new("llama_cpp", "demo");
    assert_eq!(lines(&metrics, "stent_queue_depth "), Vec::<String>::new());
    let depth = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let reader = Arc::clone(&depth);
    metrics.on_scrape(move |readings| {
        readings.queue_depth = Some(reader.load(std::sync::atomic::Ordering::Relaxed));
        readings.slots = vec![("idle", 3), ("decode", 1)];
    });
    metrics.on_scrape(|readings| readings.spans_dropped = Some(5));
    depth.store(7, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(line(&metrics, "stent_queue_depth "), "stent_queue_depth 7");
    assert_eq!(
        line(&metrics, "stent_slots{state=\"idle\"}"),
        "stent_slots{state=\"idle\"} 3"
    );
    assert_eq!(
        line(&metrics, "stent_slots{state=\"decode\"}"),
        "stent_slots{state=\"decode\"} 1"
    );
    assert_eq!(
        line(&metrics, "stent_spans_dropped_total"),
        "stent_spans_dropped_total 5"
    );
    for process in [
        "memory_resident_bytes",
        "memory_locked_bytes",
        "process_start_time_seconds",
    ] {
        line(&metrics, &format!("stent_{process} "));
    }
    line(&metrics, "stent_cpu_seconds_total ");
}

#[test]
fn ten_thousand_names_do_not_become_ten_thousand_series() {
    let metrics = Metrics::new("llama_cpp", "demo");
    for n in 0..10_000 {
        let name = format!("policy-{n}");
        metrics.policy_call("trim", &name, Duration::from_micros(80));
        metrics.policy_fault("trim", &name, "trap");
        metrics.filter_stop("policy-0", &format!("word-{n}"));
        metrics.shadow("trim", &name, "different");
    }
    assert_eq!(
        lines(&metrics, "stent_policy_faults_total").len(),
        MAX_NAMES + 1
    );
    assert_eq!(
        lines(&metrics, "stent_policy_call_duration_seconds_count").len(),
        MAX_NAMES + 1
    );
    assert_eq!(
        lines(&metrics, "stent_filter_stops_total").len(),
        MAX_NAMES + 1
    );
    assert_eq!(
        lines(&metrics, "stent_policy_shadow_answers_total").len(),
        MAX_NAMES + 1
    );
}

/// Two threads that hold guards of the same families at once have deadlocked before.
#[test]
fn many_threads_count_while_others_scrape() {
    let metrics = Metrics::new("llama_cpp", "demo");
    std::thread::scope(|scope| {
        for n in 0..8_u32 {
            let metrics = &metrics;
            scope.spawn(move || {
                for _ in 0..500 {
                    metrics.request_finished(&finished(Outcome::Ok));
                    metrics.cache("exact", if n % 2 == 0 { "hit" } else { "miss" });
                    metrics.reload("swapped", "", "trim");
                }
            });
            scope.spawn(move || (0..20).for_each(|_| drop(metrics.encode().unwrap())));
        }
    });
    assert_eq!(
        line(&metrics, "stent_requests_total"),
        r#"stent_requests_total{route="/chat/stream",outcome="ok"} 4000"#
    );
    assert!(metrics.encode().unwrap().ends_with("# EOF\n"));
}
