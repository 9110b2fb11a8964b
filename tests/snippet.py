#!/usr/bin/env python3
"""Runs the README's JavaScript in Chromium, on a page of another origin, against a real gateway.

    snippet.py target/release/stent
"""

import http.server
import pathlib
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

README = pathlib.Path(__file__).parent.parent / "README.md"
CHROMIUM = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def page(snippet):
    """Shows what the snippet does, and tells its own server how it ended."""
    tell = 'await fetch("/told", { method: "POST", body: document.body.textContent });'
    fail = 'catch (error) { document.body.textContent = "failed: " + error; }'
    script = f'<script type="module">try {{ {snippet} }} {fail} {tell}</script>'
    # Not in the body, whose text is what is told.
    return f"<!doctype html><head>{script}</head><body></body>"


def serve(html, told):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(html.encode())

        def do_POST(self):
            told.put(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def read_by_page(stent, snippet, allowed):
    """The text of the page at its end; `allowed`: the gateway knows the page's origin."""
    told, port = queue.Queue(), free_port()
    origin = f"http://127.0.0.1:{serve(page(snippet.replace(':8000/', f':{port}/')), told)}"
    with tempfile.TemporaryDirectory() as work:
        origins = f'["{origin}"]' if allowed else "[]"
        serving = subprocess.Popen(
            [stent, "serve", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{free_port()}",
             "--policies", f"{work}/policies", "--data", f"{work}/data",
             "--set", "engine.n_ctx=2048", "--set", "engine.mlock=false",
             "--set", f"server.cors_origins={origins}"],
            stdout=pathlib.Path(work, "stent").open("w"), stderr=subprocess.STDOUT)
        browser = None
        try:
            for _ in range(600):
                try:
                    if urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2).status == 200:
                        break
                except OSError:
                    time.sleep(0.1)
            browser = subprocess.Popen(
                [*CHROMIUM, f"--user-data-dir={work}/profile", "--remote-debugging-port=0", origin],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            return told.get(timeout=60)
        finally:
            for process in filter(None, (browser, serving)):
                process.terminate()
                process.wait()


if __name__ == "__main__":
    snippet = re.search(r"```js\n(.*?)```", README.read_text(), re.S).group(1)
    text = read_by_page(sys.argv[1], snippet, allowed=True)
    if "diabetes" not in text.lower() or text.startswith("failed"):
        sys.exit(f"snippet: the page shows {text!r}, expected an answer about diabetes")
    stranger = read_by_page(sys.argv[1], snippet, allowed=False)
    if not stranger.startswith("failed"):
        sys.exit(f"snippet: a page of an origin that is not allowed reads {stranger!r}")
    print(f"snippet: ok, the page shows {text!r}, and one of a strange origin nothing")
