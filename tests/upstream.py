#!/usr/bin/env python3
"""Stent in front of a server that is not ours: llama-cpp-python's, with the demo model.

    upstream.py target/release/stent

The server comes from PyPI into target/upstream and is built there, which takes minutes the first time.
"""

import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "models/demo/stent-demo.gguf"
VENV = ROOT / "target/upstream"
PACKAGES = ["llama-cpp-python[server]==0.3.36"]
# What the person on call would not like to see in a log.
KEY = "s3cret-upstream-key"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def post(url, body, headers={}):
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read().decode()


def until(what, ask, process, log):
    for _ in range(1200):
        try:
            return ask()
        except OSError:
            if process.poll() is not None:
                sys.exit(f"upstream: {what} ended:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
    sys.exit(f"upstream: {what}: not ready within two minutes:\n{log.read_text()[-2000:]}")


def deltas(stream):
    frames = [json.loads(f[6:]) for f in stream.split("\n\n") if f.startswith("data: {")]
    errors = [f for f in frames if f["type"] == "error"]
    if errors:
        sys.exit(f"upstream: {errors}")
    return [f["delta"] for f in frames if f["type"] == "text-delta"]


def check(stent, upstream, work, api, extra):
    """Two turns of a conversation; returns the answers."""
    port = free_port()
    command = [stent, "serve", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{free_port()}",
               "--policies", f"{work}/policies", "--data", f"{work}/data-{api}",
               "--set", "engine.kind=openai", "--set", "engine.n_ctx=2048", "--set", "engine.max_tokens=64",
               "--set", "engine.temperature=0.0", "--set", f"engine.upstream.api={api}",
               "--set", f'engine.upstreams=[{{ url = "{upstream}", key = "{KEY}" }}]']
    for assignment in extra:
        command += ["--set", assignment]
    log = pathlib.Path(work, f"log-{api}")
    serving = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT)
    try:
        base = f"http://127.0.0.1:{port}"
        until("Stent is ready", lambda: urllib.request.urlopen(f"{base}/ready", timeout=2),
              serving, log)
        answers = []
        for message in ("What is diabetes?", "What are its symptoms?"):
            pieces = deltas(post(f"{base}/chat/stream", {"message": message, "session_id": "s"}))
            if len(pieces) < 3:
                sys.exit(f"upstream: {api}: not streamed: {pieces}")
            answers.append("".join(pieces))
        history = json.load(urllib.request.urlopen(f"{base}/sessions/s", timeout=5))
        if len(history["messages"]) != 4:
            sys.exit(f"upstream: {api}: {history}")
    finally:
        serving.terminate()
        serving.wait()
    if KEY in log.read_text():
        sys.exit("upstream: the key is in the log")
    print(f"upstream: {api}: {answers}")
    return answers


if __name__ == "__main__":
    if not (VENV / "bin/python").exists():
        subprocess.check_call([sys.executable, "-m", "venv", VENV])
    have = subprocess.run([VENV / "bin/python", "-c", "import llama_cpp.server.app"], capture_output=True)
    if have.returncode:
        subprocess.check_call([VENV / "bin/pip", "install", "--quiet", *PACKAGES])
    port = free_port()
    with tempfile.TemporaryDirectory() as work:
        said = pathlib.Path(work, "server")
        server = subprocess.Popen(
            [VENV / "bin/python", "-m", "llama_cpp.server", "--model", MODEL, "--host", "127.0.0.1",
             "--port", str(port), "--n_ctx", "2048", "--chat_format", "mistral-instruct",
             "--api_key", KEY],
            stdout=said.open("w"), stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}/v1"
            asked = urllib.request.Request(f"{url}/models", headers={"authorization": f"Bearer {KEY}"})
            until("llama-cpp-python's server", lambda: urllib.request.urlopen(asked, timeout=2), server, said)
            vocabulary = [f"engine.upstream.tokenizer={MODEL}"]
            chat = check(sys.argv[1], url, work, "chat", [])
            built = check(sys.argv[1], url, work, "completions", vocabulary)
            for answers in (chat, built):
                if "diabetes" not in answers[0].lower():
                    sys.exit(f"upstream: no answer about diabetes: {answers}")
        finally:
            server.terminate()
            server.wait()
    print("upstream: ok")
