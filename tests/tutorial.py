#!/usr/bin/env python3
"""docs/policy-tutorial.md, step by step as it stands there: every command is run and every change made.

    tutorial.py target/release/stent

Only the addresses are others, and the gateway is started beforehand.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "clients"))
from run import ROOT, Gateway  # noqa: E402


def blocks(text):
    """Commands (indented lines) and pieces of code, in their order."""
    for found in re.finditer(r"(?:^    \S[^\n]*\n)+|^```(\w+)\n(.*?)^```", text, re.M | re.S):
        yield ("sh", found[0]) if found[1] is None else (found[1], found[2])


def change(file, before, piece):
    text = file.read_text()
    assert text.count(before) == 1, f"{file}: {before!r} is there {text.count(before)} times"
    file.write_text(text.replace(before, piece + before if before != "[\n" else before + piece))


def shadow_is_there(stent):
    """Readers take longer from one step to the next than the folder does."""
    deadline = time.monotonic() + 60
    listed = lambda: subprocess.run([stent, "policy", "list"], capture_output=True, text=True).stdout
    # The file has the word in its name, while it is being compiled, too.
    while not re.search(r"^guard +shadow ", listed(), re.M):
        assert time.monotonic() < deadline, "the shadow did not come"
        time.sleep(0.1)


def main(binary):
    binary = pathlib.Path(binary).resolve()
    gateway = Gateway(binary, "engine.kind=scripted")
    said = []
    try:
        with tempfile.TemporaryDirectory() as place:
            place = pathlib.Path(place)
            (place / "policies").symlink_to(pathlib.Path(gateway.folder.name) / "policies")
            tools = place / "tools"
            tools.mkdir()
            # The commands that ask a gateway ask this one.
            (tools / "stent").write_text(
                "#!/bin/bash\n"
                "case $1-$2 in policy-list|policy-history|policy-rollback|policy-promote|policy-audit) "
                f"exec {binary} \"$@\" --admin {gateway.admin} ;; esac\n"
                f"exec {binary} \"$@\"\n")
            (tools / "stent").chmod(0o755)
            environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}",
                           "CARGO_TARGET_DIR": str(ROOT / "target/templates/cargo")}
            folder = place
            for kind, text in blocks((ROOT / "docs/policy-tutorial.md").read_text()):
                if kind == "rust":
                    change(folder / "src/hook.rs", "        Ok(match newest", text)
                elif kind == "json":
                    change(folder / "greeter.cases.json", "[\n", text)
                elif "stent serve" not in text:
                    script = re.sub(r"127\.0\.0\.1:8000", gateway.base, text)
                    print(script.rstrip(), flush=True)
                    if "promote" in script:
                        shadow_is_there(tools / "stent")
                    run = subprocess.run(["bash", "-euc", f"{script}\npwd >{place}/folder"], cwd=folder,
                                         env=environment, capture_output=True, text=True)
                    said.append(run.stdout)
                    if run.returncode:
                        sys.exit(f"tutorial: this failed:\n{run.stdout}{run.stderr}")
                    folder = pathlib.Path((place / "folder").read_text().strip())
    finally:
        gateway.end()
    whole = "".join(said)
    for expected in ("greeter", "Good day! What would you like", "rollback", "promote"):
        assert expected in whole, f"{expected!r} was not said:\n{whole}"
    print("tutorial: every step of it holds")


main(sys.argv[1])
