//! Golden cases, as the gateway asks them before a policy serves.

use stent::policy::{Hook, Scope, State};

use super::guest::{Guest, keeper, words};
use super::support::{Bench, eventually, rejected, serving};

#[tokio::test]
async fn golden_cases_keep_a_policy_out() {
    let bench = Bench::new();
    let case = |kept: &str| {
        format!(
            r#"[{{"name": "keeps both", "hook": "trim", "expect": {{"kept": {kept}}},
             "messages": [{{"role": "user", "text": "a"}}, {{"role": "user", "text": "b"}}]}}]"#
        )
    };
    std::fs::write(bench.path("t.cases.json"), case("[1]")).unwrap();
    bench.put("t.wasm", &keeper("keeper"));
    let policies = bench.start();
    let (stage, reason) = rejected(&policies, "t.wasm").unwrap();
    assert_eq!(stage, "cases");
    assert!(
        reason.contains("it answered {\"kept\":[0,1]}, expected {\"kept\":[1]}"),
        "{reason}"
    );
    std::fs::write(bench.path("u.cases.json"), case("[0, 1]")).unwrap();
    bench.put("u.wasm", &keeper("keeper"));
    policies.reload().await.unwrap();
    assert_eq!(serving(&policies, Hook::Trim).state, State::Live);
}

/// Whose cache it is, how old an answer may be, and where it stops, are a part of what a case names.
#[tokio::test]
async fn golden_cases_see_scope_age_and_stops() {
    let mut bench = Bench::new();
    bench.settings.cache.scope = Scope::Tenant;
    let key = words(1024, &[0, 0, 1, 0, 0, 0, 0, 1, 1000, 0]) + "(i32.const 1024)";
    let cache = Guest::cache("c", &key, "(i32.const 1024)").core();
    // Message 0, and a stop at 600 of two bytes.
    let plan = words(2048, &[2, 0, 0, 0]) + &words(2080, &[600, 2]);
    let plan = plan + &words(1088, &[0, 2048, 1, 0, 2080, 1]) + "(i32.const 1088)";
    let prompt = Guest::prompt("p", "(i32.const 1024)", &plan).core();
    let policies = bench.start();
    for (hook, guest, good, bad) in [
        (
            "cache",
            &cache,
            r#""scope": "tenant""#,
            r#""scope": "session""#,
        ),
        (
            "cache",
            &cache,
            r#""max_age_ms": 1000"#,
            r#""max_age_ms": 999"#,
        ),
        ("prompt", &prompt, r#""stop": ["it"]"#, r#""stop": []"#),
    ] {
        let answer = match hook {
            "cache" => r#""lookup": "exact-prompt""#,
            _ => r#""prompt": "a""#,
        };
        for (with, passes) in [(good, true), (bad, false)] {
            let case = format!(
                r#"[{{"name": "it", "hook": "{hook}", "expect": {{{answer}, {with}}},
                 "messages": [{{"role": "user", "text": "a"}}]}}]"#
            );
            std::fs::write(bench.path("g.cases.json"), case).unwrap();
            bench.put("g.wasm", guest);
            policies.reload().await.unwrap();
            let reason = rejected(&policies, "g.wasm").map(|(_, reason)| reason);
            assert_eq!(reason.is_none(), passes, "{with}: {reason:?}");
            std::fs::remove_file(bench.path("g.wasm")).unwrap();
            eventually("built-in", || {
                let gone = rejected(&policies, "g.wasm").is_none();
                let hook = if hook == "cache" {
                    Hook::Cache
                } else {
                    Hook::Prompt
                };
                (gone && serving(&policies, hook).state == State::Builtin).then_some(())
            });
        }
    }
}
