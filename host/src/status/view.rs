//! One screen: the gateway, the watch-list, slots, policies, alarms.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use super::levels::{Judged, Level, Watched};
use super::sample::{Rates, Sample};
use crate::policy_cli::{Colour, Paint, Table};

pub fn screen(sample: &Sample, rates: &Rates, watched: &Watched, paint: Paint) -> String {
    let mut out = head(sample, paint);
    out.push('\n');
    watch(&mut out, sample, watched, paint);
    work(&mut out, sample, rates);
    out.push('\n');
    slots(&mut out, sample, paint);
    out.push('\n');
    policies(&mut out, sample, paint);
    for alarm in list(sample, "/alarms") {
        let text = alarm.as_str().unwrap_or_default();
        line(&mut out, &paint.paint(Colour::Red, text));
    }
    out
}

fn head(sample: &Sample, paint: Paint) -> String {
    let answer = sample.value();
    let text = |field: &str| answer[field].as_str().unwrap_or("-").to_owned();
    let up = Duration::from_secs(answer["uptime_s"].as_u64().unwrap_or(0));
    let state = match sample.ready() {
        true => paint.paint(Colour::Green, "ready"),
        false => {
            let reason = answer["reason"].as_str().unwrap_or("no reason given");
            paint.paint(Colour::Red, &format!("not ready: {reason}"))
        }
    };
    let (version, model) = (text("version"), text("model"));
    let up = humantime::format_duration(up);
    let pid = &answer["pid"];
    format!("stent {version}  {model}  pid {pid}  up {up}  {state}\n")
}

fn watch(out: &mut String, sample: &Sample, watched: &Watched, paint: Paint) {
    let cpus = sample.number("/process/cpus").unwrap_or(0.0);
    let locked = sample.number("/process/locked").unwrap_or(0.0);
    let answers = sample.number("/first_words/answers").unwrap_or(0.0);
    let crashes = sample.number("/restarts/crashes").unwrap_or(0.0);
    let rows = [
        (
            "memory",
            watched.memory,
            bytes as fn(f64) -> String,
            format!("{} locked", bytes(locked)),
        ),
        (
            "cpu",
            watched.cpu,
            |v| format!("{v:.0} %"),
            format!("of {cpus} CPUs"),
        ),
        (
            "first words",
            watched.first_words,
            |v| format!("{v:.2} s"),
            format!("95 of 100, {answers} answers in 5 minutes"),
        ),
        (
            "restarts",
            watched.restarts,
            |v| format!("{v}"),
            format!("in 24 hours, {crashes} after a crash"),
        ),
    ];
    for (name, judged, shown, more) in rows {
        let (value, level) = match judged {
            Some(Judged { value, level }) => (shown(value), level.as_str()),
            None => ("-".to_owned(), "unknown"),
        };
        let colour = match judged.map(|judged| judged.level) {
            None => Colour::Faint,
            Some(Level::Good) => Colour::Green,
            Some(Level::Warn) => Colour::Yellow,
            Some(Level::Critical) => Colour::Red,
        };
        // Padded before it is painted: colours take no room on the screen.
        let level = paint.paint(colour, &format!("{level:<9}"));
        line(out, &format!("{name:<12}{value:>10}  {level}{more}"));
    }
}

fn work(out: &mut String, sample: &Sample, rates: &Rates) {
    let number = |path: &str| sample.number(path).unwrap_or(0.0);
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
    let (drawn, read) = (rate(rates.generated), rate(rates.prefilled));
    let (waiting, limit) = (number("/queue/waiting"), number("/queue/limit"));
    line(
        out,
        &format!(
            "{:<12}{drawn:>10}  /s drawn, {read}/s of prompts read",
            "tokens"
        ),
    );
    line(
        out,
        &format!("{:<12}{waiting:>10}  waiting, at most {limit}", "queue"),
    );
    let (entries, size) = (
        number("/now/cache_entries"),
        bytes(number("/now/cache_bytes")),
    );
    let cached = format!("{entries} cached answers, {size}");
    let sessions = number("/now/sessions");
    line(
        out,
        &format!("{:<12}{sessions:>10}  and {cached}", "sessions"),
    );
    let (ended, dropped) = (number("/now/spans_ended"), number("/now/spans_dropped"));
    line(
        out,
        &format!("{:<12}{ended:>10}  ended, {dropped} dropped", "spans"),
    );
}

fn slots(out: &mut String, sample: &Sample, paint: Paint) {
    let mut table = Table::new([
        "SLOT", "STATE", "SESSION", "PROMPT", "CACHED", "OUTPUT", "TOKENS/S",
    ]);
    for slot in list(sample, "/slots") {
        let state = cell(&slot["state"]);
        let colour = match state.as_str() {
            "idle" => Colour::Faint,
            "prefill" => Colour::Yellow,
            _ => Colour::Green,
        };
        let speed = slot["tokens_per_second"].as_f64().unwrap_or(0.0);
        let cells = [
            slot["slot"].to_string(),
            state,
            cell(&slot["session"]),
            cell(&slot["prompt_tokens"]),
            cell(&slot["cached_tokens"]),
            cell(&slot["output_tokens"]),
            format!("{speed:.1}"),
        ];
        table.row(cells, colour, None);
    }
    rows(out, &table, paint);
}

fn policies(out: &mut String, sample: &Sample, paint: Paint) {
    let number = |path: &str| sample.number(path).unwrap_or(0.0);
    let (now, live) = (
        number("/now/policy_generation"),
        number("/now/policy_generations_live"),
    );
    line(out, &format!("policies: generation {now}, {live} in use"));
    let mut table = Table::new([
        "HOOK", "STATE", "POLICY", "VERSION", "REVISION", "SINCE", "SHA256",
    ]);
    for policy in list(sample, "/policies") {
        let state = cell(&policy["state"]);
        let colour = match state.as_str() {
            "live" => Colour::Green,
            "builtin" => Colour::Faint,
            "shadow" => Colour::Cyan,
            "rejected" => Colour::Red,
            _ => Colour::Yellow,
        };
        let cells = [
            cell(&policy["hook"]),
            state,
            cell(&policy["name"]),
            cell(&policy["version"]),
            cell(&policy["revision"]),
            cell(&policy["generation"]),
            cell(&policy["sha256"]).chars().take(12).collect(),
        ];
        table.row(cells, colour, policy["reason"].as_str().map(str::to_owned));
    }
    rows(out, &table, paint);
}

fn rows<const N: usize>(out: &mut String, table: &Table<N>, paint: Paint) {
    let mut text = Vec::new();
    // Writing into memory does not fail.
    let _ = table.write(paint, &mut text);
    out.push_str(&String::from_utf8_lossy(&text));
}

fn list<'a>(sample: &'a Sample, path: &str) -> impl Iterator<Item = &'a Value> {
    sample
        .value()
        .pointer(path)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn line(out: &mut String, text: &str) {
    // Writing into a text does not fail.
    let _ = writeln!(out, "{text}");
}

/// "-" for what there is not.
fn cell(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Number(number) if number.as_u64() != Some(0) => number.to_string(),
        _ => "-".to_owned(),
    }
}

fn bytes(bytes: f64) -> String {
    const MIB: f64 = (1_u64 << 20) as f64;
    match bytes / MIB {
        mib if mib >= 1024.0 => format!("{:.1} GiB", mib / 1024.0),
        mib => format!("{mib:.0} MiB"),
    }
}
