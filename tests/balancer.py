#!/usr/bin/env python3
"""deploy/nginx/stent.conf in front of two gateways: a session stays with one of them, and its questions
go to the other when that one drains or is gone; the admin routes are not there.

    balancer.py target/release/stent
"""

import http.client
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "clients"))
from run import ROOT, Gateway, free_port  # noqa: E402


def nginx(folder, port, gateways):
    conf = (ROOT / "deploy/nginx/stent.conf").read_text()
    swaps = {"127.0.0.1:8000": gateways[0].base, "127.0.0.1:8010": gateways[1].base,
             "listen 80;": f"listen 127.0.0.1:{port};", "    listen [::]:80;\n": ""}
    for there, here in swaps.items():
        assert there in conf, there
        conf = conf.replace(there, here)
    (folder / "stent.conf").write_text(conf)
    temp = " ".join(f"{kind}_temp_path {folder}/{kind};"
                    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"pid {folder}/pid; error_log {folder}/error.log; daemon off; master_process off; events {{}}\n"
        f"http {{ access_log off; {temp} include {folder}/stent.conf; }}\n")
    return subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf"])


def ask(port, session, route="/chat", method="POST"):
    """Status, and who answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"message": "q", "session_id": session}) if method == "POST" else None
    connection.request(method, route, body,
                       {"content-type": "application/json", "x-session-id": session})
    response = connection.getresponse()
    text = response.read().decode()
    return response.status, next((name for name in ("alpha", "beta") if name in text), text)


def main(binary):
    binary = pathlib.Path(binary).resolve()

    def gateway(name, pace):
        return Gateway(binary, "engine.kind=scripted", "cache.store=off", "server.drain=20s",
                       f"engine.script.text={name} one two three four five", f"engine.script.token={pace}")
    gateways = {"alpha": gateway("alpha", "100ms"), "beta": gateway("beta", "20ms")}
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        proxy = nginx(pathlib.Path(folder), port, list(gateways.values()))
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    ask(port, "first")
                    break
                except OSError:
                    assert time.monotonic() < deadline, "nginx did not come up"
                    time.sleep(0.05)
            homes = {f"s{n}": ask(port, f"s{n}")[1] for n in range(12)}
            assert set(homes.values()) == {"alpha", "beta"}, homes
            assert all(ask(port, session) == (200, home) for session, home in homes.items())
            for route in ("/admin/slots", "/metrics"):
                assert ask(port, "s0", route, "GET")[0] == 404, route

            # One drains: a stream of its own keeps it alive meanwhile.
            at_home = next(session for session, home in homes.items() if home == "alpha")
            slow = []
            held = threading.Thread(target=lambda: slow.append(ask(port, at_home, "/chat/stream")))
            held.start()
            time.sleep(0.05)
            gateways["alpha"].process.send_signal(signal.SIGTERM)
            answers = [ask(port, at_home) for _ in range(5)]
            held.join()
            assert slow == [(200, "alpha")], slow
            assert {status for status, _ in answers} == {200}, answers
            gateways["alpha"].process.wait()
            # And gone.
            assert all(ask(port, session) == (200, "beta") for session in homes), "alpha is gone"
        finally:
            proxy.terminate()
            proxy.wait()
            for one in gateways.values():
                one.end()
    print("balancer: sessions stayed, and went on when their gateway drained and ended")


main(sys.argv[1])
