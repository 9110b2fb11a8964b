#!/usr/bin/env python3
"""Sends one chat's spans to an OTLP collector that is not ours, and checks what it understood.

    receiver.py target/release/stent

The collector is rotel (PyPI), fetched into target/tools. It is asked over gRPC and over HTTP.
"""

import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv

ROTEL = "rotel==0.0.1a15"
# Each span and what it hangs below.
TREE = {
    "POST /chat/stream": None,
    "session.load": "POST /chat/stream",
    "policy layout": "POST /chat/stream",
    "policy cache.decide": "POST /chat/stream",
    "policy trim": "POST /chat/stream",
    "policy build": "POST /chat/stream",
    "cache.lookup": "POST /chat/stream",
    "admission": "POST /chat/stream",
    "queue.wait": "POST /chat/stream",
    "chat stent-demo": "POST /chat/stream",
    "prefill": "chat stent-demo",
    "decode": "chat stent-demo",
    "session.append": "POST /chat/stream",
    "policy cache.admit": "POST /chat/stream",
    "cache.store": "POST /chat/stream",
}


def collector():
    folder = pathlib.Path("target/tools/rotel")
    if not (folder / "done").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", "--pre", ROTEL], check=True)
        (folder / "done").touch()
    return next(folder.glob("lib/python3*/site-packages/rotel/rotel-agent"))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait(what, holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"receiver: {what}: not within {seconds} s")
        time.sleep(0.1)


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError:
        return False


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def spans(text):
    """The spans of the collector's debug log: (name, id, parent)."""
    found = []
    for block in re.split(r"\n\s*Span #\d+", text)[1:]:
        field = lambda name: re.search(rf"^ +{name} +: (.*)", block, re.M)
        values = [field(name) for name in ("Name", "ID", "Parent ID")]
        found.append(tuple(m.group(1).strip() if m else "" for m in values))
    return found


def check(stent, agent, protocol):
    grpc, http, public, admin = (free_port() for _ in range(4))
    with tempfile.TemporaryDirectory() as work:
        log = pathlib.Path(work, "collector")
        collecting = subprocess.Popen(
            [agent, "start", "--exporter", "blackhole", "--debug-log", "traces",
             "--debug-log-verbosity", "detailed",
             "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}",
             "--otlp-http-endpoint", f"127.0.0.1:{http}"],
            stdout=log.open("w"), stderr=subprocess.STDOUT)
        port = grpc if protocol == "grpc" else http
        serving = None
        try:
            wait("the collector listens", lambda: listens(port))
            serving = subprocess.Popen(
                [stent, "serve", "--listen", f"127.0.0.1:{public}", "--admin", f"127.0.0.1:{admin}",
                 "--policies", f"{work}/policies", "--data", f"{work}/data",
                 "--set", "engine.n_ctx=2048", "--set", "engine.mlock=false",
                 "--set", f"telemetry.otlp=http://127.0.0.1:{port}",
                 "--set", f"telemetry.protocol={protocol}"],
                stdout=pathlib.Path(work, "stent").open("w"), stderr=subprocess.STDOUT)
            wait("stent is ready", lambda: answers(f"http://127.0.0.1:{public}/ready"))
            body = json.dumps({"message": "What is asthma?", "session_id": "receiver"}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{public}/chat/stream", body, {"content-type": "application/json"})
            answer = urllib.request.urlopen(request, timeout=60).read().decode()
            assert answer.endswith("data: [DONE]\n\n"), answer[-200:]
            names = lambda: {name for name, _, _ in spans(log.read_text())}
            wait(f"all spans over {protocol}", lambda: set(TREE) <= names(), 30)
            got = spans(log.read_text())
        except SystemExit:
            print(log.read_text()[-6000:], file=sys.stderr)
            raise
        finally:
            for process in (serving, collecting):
                if process:
                    process.terminate()
                    process.wait()
    by_id = {span: name for name, span, _ in got}
    for name, parent in TREE.items():
        above = next(p for n, _, p in got if n == name)
        if by_id.get(above) != parent:
            sys.exit(f"receiver: {protocol}: {name} hangs below {by_id.get(above)}, not {parent}")
    print(f"receiver: {protocol}: ok, {len(got)} spans understood by rotel")


if __name__ == "__main__":
    stent, agent = sys.argv[1], collector()
    for protocol in ("grpc", "http"):
        check(stent, agent, protocol)
