#!/usr/bin/env python3
"""Schemathesis asks whatever /openapi.json allows, and what it does not: no answer is a 5xx, and
what is answered looks as described.

    schema.py target/release/stent
"""

import pathlib
import subprocess
import sys
import venv

sys.path.insert(0, str(pathlib.Path(__file__).parent / "clients"))
from run import TOOLS, Gateway  # noqa: E402

SCHEMATHESIS = "schemathesis==4.32.5"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def tool():
    folder = TOOLS / "schemathesis"
    stamp = folder / "stamp"
    if not stamp.exists() or stamp.read_text() != SCHEMATHESIS:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", SCHEMATHESIS], check=True)
        stamp.write_text(SCHEMATHESIS)
    return folder / "bin/schemathesis"


def main(binary):
    schemathesis = tool()
    gateway = Gateway(pathlib.Path(binary).resolve(), "engine.kind=scripted", "engine.queue=1000")
    try:
        result = subprocess.run([schemathesis, "run", f"http://{gateway.base}/openapi.json",
                                 "--checks", CHECKS, "--max-examples", "40", "--seed", "1",
                                 "--phases", "examples,coverage,fuzzing", "--no-color"],
                                # It remembers failed cases where it runs.
                                cwd=TOOLS)
        assert gateway.process.poll() is None, "the gateway died"
    finally:
        gateway.end()
    sys.exit(result.returncode)


main(sys.argv[1])
