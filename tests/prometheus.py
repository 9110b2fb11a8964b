#!/usr/bin/env python3
"""A real Prometheus scrapes a real gateway with the files of deploy/prometheus.

    prometheus.py target/release/stent

Proves what promtool cannot: exemplars arrive with the trace ids of the answers, every metric has a
help text and a type, the rules run on real samples, every name that rules and dashboard use is a
metric that Prometheus got, and the alerts of a Redis that is gone rise. prometheus and promtool are
Debian's package prometheus, redis-server is its own.
"""

import contextlib
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

from jaeger import running
from receiver import answers, free_port, wait

ROOT = pathlib.Path(__file__).parent.parent
# Absent until something of the kind has happened.
RARE = {"stent_policy_faults_total", "stent_policy_reloads_total", "stent_prefix_breaks_total"}


def ask(url, body=None):
    data = json.dumps(body).encode() if body else None
    headers = {"content-type": "application/json"} if body else {}
    return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60)


def connects(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def config(work, admin):
    """The shipped file, on this gateway and in a hurry."""
    text = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    text = text.replace("127.0.0.1:8001", f"127.0.0.1:{admin}").replace("interval: 10s", "interval: 1s")
    assert str(admin) in text and "1s" in text
    pathlib.Path(work, "prometheus.yml").write_text(text)
    rules = (ROOT / "deploy/prometheus/rules.yml").read_text()
    pathlib.Path(work, "rules.yml").write_text(rules)
    return rules


def used(rules):
    """Names of metrics and records in rules and dashboard."""
    board = json.loads((ROOT / "deploy/grafana/stent.json").read_text())
    shown = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    shown += [a["expr"] for a in board["annotations"]["list"]]
    exprs = shown + re.findall(r"expr: (?:\|\n)?((?:.|\n(?=          ))*)", rules)
    names = set(re.findall(r"\b(?:stent|gen_ai)[_:][a-z0-9_:]+", " ".join(exprs)))
    # Labels of the GenAI metrics look like metrics.
    return names - {"gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"}


def main(stent):
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(tempfile.TemporaryDirectory())
        public, admin, port, shared = (free_port() for _ in range(4))
        log = open(f"{work}/log", "w")
        redis = stack.enter_context(running(
            ["redis-server", "--port", str(shared), "--bind", "127.0.0.1", "--save", "", "--dir", work],
            stdout=log, stderr=log))
        wait("redis is there", lambda: connects(shared))
        stack.enter_context(running(
            [stent, "serve", "--listen", f"127.0.0.1:{public}", "--admin", f"127.0.0.1:{admin}",
             "--policies", f"{work}/policies", "--data", f"{work}/data",
             "--set", "engine.kind=scripted", "--set", f"cache.store=redis://127.0.0.1:{shared}/0",
             # A busy machine is no trouble of Redis.
             "--set", "cache.timeout=1s"], stdout=log, stderr=log))
        wait("stent is ready", lambda: answers(f"http://127.0.0.1:{public}/ready"))
        rules = config(work, admin)
        stack.enter_context(running(
            ["prometheus", f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/tsdb",
             f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage"],
            stdout=log, stderr=log))
        api = lambda path, **query: json.load(
            ask(f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"))["data"]
        wait("prometheus is ready", lambda: answers(f"http://127.0.0.1:{port}/-/ready"))
        traces = set()

        def chat():
            body = {"message": f"question {len(traces)}", "session_id": "prometheus"}
            response = ask(f"http://127.0.0.1:{public}/chat/stream", body)
            traces.add(response.headers["traceresponse"].split("-")[1])
            response.read()

        def exemplars():
            chat()
            name = "gen_ai_server_time_to_first_token_seconds_bucket"
            found = api("query_exemplars", query=name, start="0", end="9999999999")
            return {e["labels"]["trace_id"] for series in found for e in series["exemplars"]}

        wait("exemplars come", exemplars)
        assert exemplars() <= traces, "an exemplar names a trace that was no answer's"

        group = lambda: [rule for g in api("rules")["groups"] for rule in g["rules"]]
        wait("the rules have run", lambda: all(rule["health"] == "ok" for rule in group()))
        firing = [rule["name"] for rule in group() if rule.get("state") == "firing"]
        assert firing == [], firing

        names = used(rules)
        assert len(names) > 30, names
        known = lambda: set(api("label/__name__/values"))
        absent = lambda: names - known() - RARE
        try:
            wait(f"all {len(names)} names are there", lambda: chat() or not absent())
        except SystemExit:
            print(f"prometheus: absent: {absent()}", file=sys.stderr)
            raise
        meta = api("metadata")
        ours = {name: of[0] for name, of in meta.items() if name.startswith(("stent_", "gen_ai_"))}
        bare = [name for name, of in ours.items() if not of["help"] or of["type"] == "unknown"]
        assert len(ours) > 25 and not bare, (len(ours), bare)
        units = [name for name in ours if name.endswith(("_seconds", "_bytes"))]
        wrong = [name for name in units if ours[name]["unit"] not in ("seconds", "bytes")]
        assert len(units) > 8 and not wrong, wrong
        redis.terminate()
        redis.wait()
        rising = lambda: {rule["name"] for rule in group() if rule.get("state") in ("pending", "firing")}
        wait("the loss of Redis is told", lambda: chat() or rising() >= {
            "StentRedisDown", "StentRedisDegraded"})
        print(f"prometheus: ok, exemplars of {len(traces)} answers, {len(names)} names in use, "
              f"{len(ours)} metrics with help texts, {len(group())} rules run")


if __name__ == "__main__":
    main(sys.argv[1])
