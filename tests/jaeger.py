#!/usr/bin/env python3
"""Sends one chat's spans to a receiver with Jaeger's query API and UI, and fetches them back.

    jaeger.py target/release/stent target/jaeger/debug/receiver [--screenshot docs/trace.png]

The receiver is tests/jaeger, around the crate otlp-embedded. It is asked over gRPC and over HTTP;
what comes back by trace id is compared with what the answer and the gateway say of themselves. The
screenshot is Jaeger's own page, in Chromium.
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

from receiver import TREE, answers, free_port, wait
from snippet import CHROMIUM

# Where a type of Jaeger's is not the one of its value in Python: numbers that came as text.
TYPES = {"int64": int, "float64": (float, int), "bool": bool, "string": str}
# Of these spans, attributes that must be there, with their types.
TAGS = {
    "POST /chat/stream": {
        "http.request.method": "string", "http.response.status_code": "int64",
        "http.route": "string", "stent.outcome": "string", "stent.policy.generation": "int64"},
    "admission": {"stent.queue.depth": "int64", "stent.queue.position": "int64"},
    "session.load": {"stent.session.store": "string", "stent.session.turns": "int64"},
    "policy trim": {
        "stent.policy.hook": "string", "stent.policy.name": "string",
        "stent.policy.version": "string", "stent.policy.sha256": "string",
        "stent.policy.generation": "int64", "stent.policy.outcome": "string",
        "stent.policy.memory_peak": "int64", "stent.policy.duration_us": "int64"},
    "chat stent-demo": {
        "gen_ai.operation.name": "string", "gen_ai.provider.name": "string",
        "gen_ai.request.model": "string", "gen_ai.request.temperature": "float64",
        "gen_ai.request.max_tokens": "int64", "gen_ai.response.finish_reasons": "string",
        "gen_ai.usage.input_tokens": "int64", "gen_ai.usage.output_tokens": "int64",
        "stent.slot": "int64"},
    "prefill": {"stent.tokens.prompt": "int64", "stent.tokens.reused": "int64"},
    "decode": {"stent.tokens.output": "int64", "stent.tokens.per_second": "float64"},
}


@contextlib.contextmanager
def running(command, **how):
    process = subprocess.Popen(command, **how)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def get(url):
    try:
        return json.load(urllib.request.urlopen(url, timeout=10))
    except urllib.error.HTTPError:
        return {}


def chat(public):
    body = json.dumps({"message": "What is asthma?", "session_id": "jaeger"}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{public}/chat/stream", body, {"content-type": "application/json"})
    response = urllib.request.urlopen(request, timeout=60)
    trace = response.headers["traceresponse"].split("-")[1]
    frames = [line[6:] for line in response.read().decode().splitlines() if line.startswith("data: {")]
    summary = next(f["data"] for f in map(json.loads, frames) if f.get("id") == "summary")
    assert summary["trace_id"] == trace, summary
    return trace, summary


def check(protocol, trace, summary):
    """The trace as Jaeger's query API gives it."""
    spans = trace["data"][0]["spans"]
    names = {span["spanID"]: span["operationName"] for span in spans}
    assert sorted(names.values()) == sorted(TREE), sorted(names.values())
    tags = {}
    for span in spans:
        name = span["operationName"]
        above = [r["spanID"] for r in span["references"] or [] if r["refType"] == "CHILD_OF"]
        parent = names.get(above[0]) if above else None
        assert parent == TREE[name], f"{protocol}: {name} hangs below {parent}, not {TREE[name]}"
        tags[name] = {tag["key"]: tag for tag in span["tags"]}
        for tag in span["tags"]:
            assert isinstance(tag["value"], TYPES[tag["type"]]), tag
    for name, expected in TAGS.items():
        found = {key: tags[name].get(key, {}).get("type") for key in expected}
        assert found == expected, f"{protocol}: {name}: {found}"
    value = lambda name, key: tags[name][key]["value"]
    assert value("POST /chat/stream", "stent.outcome") == "ok"
    assert value("POST /chat/stream", "http.response.status_code") == 200
    told = (summary["prompt_tokens"], summary["tokens"])
    chat = "chat stent-demo"
    found = (value(chat, "gen_ai.usage.input_tokens"), value(chat, "gen_ai.usage.output_tokens"))
    assert found == told, f"{protocol}: {found} tokens, the answer said {told}"
    by_name = {span["operationName"]: span for span in spans}
    root = by_name["POST /chat/stream"]
    end = lambda span: span["startTime"] + span["duration"]
    # Jaeger counts in whole microseconds.
    assert end(root) + 1 >= max(map(end, spans)), f"{protocol}: the server span does not end last"
    process = next(iter(trace["data"][0]["processes"].values()))
    assert process["serviceName"] == "stent", process
    print(f"jaeger: {protocol}: ok, {len(spans)} spans fetched back by trace id")


def screenshot(url, file):
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [*CHROMIUM, f"--user-data-dir={profile}", "--window-size=1400,700", "--hide-scrollbars",
             "--virtual-time-budget=15000", f"--screenshot={pathlib.Path(file).resolve()}", url],
            check=True, timeout=120, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"jaeger: {file}: {pathlib.Path(file).stat().st_size} bytes of {url.rsplit('/', 1)[0]}")


def main(stent, receiver, picture):
    for protocol in ("grpc", "http"):
        with contextlib.ExitStack() as stack:
            work = stack.enter_context(tempfile.TemporaryDirectory())
            taking = stack.enter_context(
                running([receiver], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            ports = json.loads(taking.stdout.readline())
            public, admin = free_port(), free_port()
            log = open(f"{work}/stent", "w")
            stack.enter_context(running(
                [stent, "serve", "--listen", f"127.0.0.1:{public}", "--admin", f"127.0.0.1:{admin}",
                 "--policies", f"{work}/policies", "--data", f"{work}/data",
                 "--set", "engine.n_ctx=2048", "--set", "engine.mlock=false",
                 "--set", f"telemetry.otlp=http://127.0.0.1:{ports[protocol]}",
                 "--set", f"telemetry.protocol={protocol}"], stdout=log, stderr=log))
            wait("stent is ready", lambda: answers(f"http://127.0.0.1:{public}/ready"))
            trace, summary = chat(public)
            ui = f"http://127.0.0.1:{ports['ui']}"
            came = lambda: get(f"{ui}/api/traces/{trace}")
            count = lambda: len(came().get("data", [{}])[0].get("spans", []))
            wait(f"all spans over {protocol}", lambda: count() >= len(TREE), 30)
            check(protocol, came(), summary)
            assert "stent" in get(f"{ui}/api/services")["data"]
            if picture and protocol == "grpc":
                screenshot(f"{ui}/trace/{trace}", picture)


if __name__ == "__main__":
    rest = sys.argv[3:]
    main(sys.argv[1], sys.argv[2], rest[1] if rest[:1] == ["--screenshot"] else None)
