#!/usr/bin/env bash
# The Containerfile's second stage without a container engine: its packages in a root of its own made
# by mmdebstrap, its user, folders and variables, and an answer of the demo model. The first stage is
# what `make build` does anywhere.
#   root.sh BUILT CACHE      BUILT: target/release; CACHE: a folder that keeps the bare root
set -euo pipefail
cd "$(dirname "$0")/../.."

built=$1 cache=$2
file=deploy/container/Containerfile
work=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; wait 2>/dev/null; rm -rf "$work"' EXIT

# What the second stage says: lines that go on are joined.
stage=$(sed -e ':a;/\\$/N;s/\\\n */ /;ta' "$file" | sed -n '/^FROM debian/,$p')
suite=$(sed -n 's/^FROM debian:\(.*\)-slim$/\1/p' <<<"$stage")
packages=$(sed -n 's/.*apt-get install -y --no-install-recommends \([^&]*\)&&.*/\1/p' <<<"$stage" | tr -s ' ' ',' | sed 's/,$//')
variables=$(sed -n 's/^ENV //p' <<<"$stage")
user=$(sed -n 's/^USER //p' <<<"$stage")
[ -n "$suite" ] && [ -n "$packages" ] && [ -n "$variables" ] && [ -n "$user" ]

mkdir -p "$cache"
if [ ! -s "$cache/root-$suite.tar" ]; then
    # The system's own mirror, where it is of the same kind.
    mirror=$(ls /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
    mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt='Acquire::Check-Valid-Until "false"' \
        "$suite" "$cache/root.tmp" $mirror
    mv "$cache/root.tmp" "$cache/root-$suite.tar"
fi
mkdir "$work/root"
tar -C "$work/root" --exclude=./dev/'*' -xf "$cache/root-$suite.tar"
STENT_PREFIX=/usr/local deploy/package/install.sh "$built" "$work/root/usr/local"
# The two commands that make the user and the folders, as they stand there.
within() { chroot "$work/root" "$@"; }
within sh -c "$(grep -o 'useradd .*' <<<"$stage")"
within sh -c "$(sed -n 's/^RUN \(install .*\)/\1/p' <<<"$stage")"
mount --bind /proc "$work/root/proc" 2>/dev/null || { echo "container: this user may not mount /proc"; exit 1; }
trap 'kill $server 2>/dev/null || true; wait 2>/dev/null; umount -l "$work/root/proc"; rm -rf --one-file-system "$work"' EXIT

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
stent() {
    # shellcheck disable=SC2086 # one word a variable
    chroot --userspec="$user" "$work/root" env -i PATH=/usr/bin:/bin HOME=/var/lib/stent $variables \
        STENT_SERVER_LISTEN="$public" STENT_SERVER_ADMIN="$admin" STENT_ENGINE_MLOCK=false \
        STENT_ENGINE_N_CTX=2048 /usr/local/bin/stent "$@"
}
public=127.0.0.1:$(port) admin=127.0.0.1:$(port)
stent serve >"$work/log" 2>&1 &
server=$!
for _ in $(seq 600); do
    if stent health --ready >/dev/null 2>&1; then break; fi
    kill -0 $server 2>/dev/null || { cat "$work/log"; exit 1; }
    sleep 0.1
done
stent health --ready
python3 - "$public" <<'PY'
import json, sys, urllib.request
body = json.dumps({"message": "What is diabetes?"}).encode()
request = urllib.request.Request(f"http://{sys.argv[1]}/chat", body, {"content-type": "application/json"})
answer = urllib.request.urlopen(request, timeout=60).read().decode()
assert "diabetes" in answer.lower(), answer
PY
# Only the volume was written to.
owned=$(find "$work/root" -xdev -uid "$user" -not -path "*/var/lib/stent*" | head -3)
[ -z "$owned" ] || { echo "container: written outside of the volume: $owned"; exit 1; }
# The job is a shell around chroot: its child is the gateway.
pkill -TERM -P $server || kill $server
wait $server || true
server=
echo "container: the second stage serves as user $user"
