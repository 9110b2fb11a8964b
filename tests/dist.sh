#!/usr/bin/env bash
# The tarball of `make dist` on a machine without a compiler: unpacked in an empty place, with an
# empty environment; the version, a doctor without bad lines, and an answer.
#   dist.sh TARBALL
set -euo pipefail

tarball=$(realpath "$1")
work=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; wait 2>/dev/null; rm -rf "$work"' EXIT
tar -C "$work" -xzf "$tarball"
cd "$work"/stent-*
run() { env -i PATH=/usr/bin:/bin HOME="$work" "$@"; }

run bin/stent --version
# The oldest C library that has all they ask for.
needs=$(grep -aohE 'GLIBC_2\.[0-9]+' bin/stent lib/stent/*.so* | sort -uV | tail -1)
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
public=127.0.0.1:$(port) admin=127.0.0.1:$(port)
folders="--policies $work/p --data $work/d --set engine.n_ctx=2048 --set engine.mlock=false"
report=$(run bin/stent doctor --json --listen "$public" --admin "$admin" $folders) || true
python3 - "$report" <<'PY'
import json, sys
lines = json.loads(sys.argv[1])["lines"]
bad = [line for line in lines if line["level"] == "bad"]
assert not bad, bad
hashed = [line["level"] for line in lines if line["check"] == "model.hash"]
assert hashed == ["good"], lines
PY
env -i PATH=/usr/bin:/bin HOME="$work" bin/stent serve --listen "$public" --admin "$admin" $folders >"$work/log" 2>&1 &
server=$!
for _ in $(seq 600); do
    run bin/stent health --ready --listen "$public" --admin "$admin" >/dev/null 2>&1 && break
    kill -0 $server 2>/dev/null || { cat "$work/log"; echo "dist: it ended"; exit 1; }
    sleep 0.1
done
answer=$(python3 - "$public" <<'PY'
import json, sys, urllib.request
body = json.dumps({"message": "What is diabetes?"}).encode()
request = urllib.request.Request(f"http://{sys.argv[1]}/chat", body, {"content-type": "application/json"})
print(urllib.request.urlopen(request, timeout=60).read().decode())
PY
)
grep -qi diabetes <<<"$answer" || { echo "dist: $answer"; exit 1; }
# Everything that it has loaded came along, but the C library.
strange=$(awk '$6 ~ /\.so/ {print $6}' "/proc/$server/maps" | sort -u |
    grep -vE "^$work/|/(lib(c|m|dl|pthread|rt)|ld-linux[^/]*)\.so" || true)
[ -z "$strange" ] || { echo "dist: these come from elsewhere: $strange"; exit 1; }
test -s share/man/man1/stent-serve.1 && test -s share/bash-completion/completions/stent
kill -TERM $server
wait $server
server=
echo "dist: ok, $(du -h "$tarball" | cut -f1), needs $needs"
