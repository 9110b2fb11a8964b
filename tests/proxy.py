#!/usr/bin/env python3
"""Debian's nginx with its defaults in front of a gateway: each word of a stream arrives when it is
said, not when the answer is complete.

    proxy.py target/release/stent
"""

import pathlib
import subprocess
import sys
import tempfile
import time

import http.client
import json

sys.path.insert(0, str(pathlib.Path(__file__).parent / "clients"))
from run import Gateway, free_port  # noqa: E402

WORD = 0.3


def nginx(folder, port, upstream):
    config = folder / "nginx.conf"
    config.write_text(f"""
        pid {folder}/pid; error_log {folder}/error.log; daemon off; master_process off;
        events {{}}
        http {{
            access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
            server {{
                listen 127.0.0.1:{port};
                location / {{ proxy_pass http://{upstream}; }}
            }}
        }}""")
    return subprocess.Popen(["nginx", "-p", folder, "-c", config])


def arrivals(port):
    """When each word came, and the whole text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"message": "q"})
    connection.request("POST", "/chat/stream", body, {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.status
    times, said = [], ""
    while line := response.readline():
        if b"text-delta" in line:
            times.append(time.monotonic())
            said += json.loads(line[6:])["delta"]
    return times, said


def main(binary):
    gateway = Gateway(pathlib.Path(binary).resolve(), "engine.kind=scripted",
                      f"engine.script.token={int(WORD * 1000)}ms")
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        proxy = nginx(pathlib.Path(folder), port, gateway.base)
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    times, said = arrivals(port)
                    break
                except OSError:
                    assert time.monotonic() < deadline, "nginx did not come up"
                    time.sleep(0.05)
        finally:
            proxy.terminate()
            proxy.wait()
            gateway.end()
    assert said.endswith("everyone."), said
    spread = times[-1] - times[0]
    # Twelve words: with buffering all would come in one piece.
    assert spread > 8 * WORD, f"twelve words came within {spread:.2f} s"
    assert all(b - a < 3 for a, b in zip(times, times[1:])), times
    print(f"proxy: twelve words of {WORD} s came through nginx over {spread:.2f} s")


main(sys.argv[1])
