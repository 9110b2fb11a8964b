#!/bin/sh
# Starts Stent on the benchmark model, measures it, stops it.
#   bench.sh STENT MODEL [options of `stent bench`, such as --peer URL]
# Environment: SET holds further settings for the server, "engine.threads=2 engine.slots=4".
set -eu

stent=$1 model=$2
shift 2

# Two ports that are free now.
ports=$(python3 -c 'import socket
both = [socket.socket() for _ in range(2)]
for one in both: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in both))')
port=${ports% *} admin=${ports#* }

work=$(mktemp -d)
log=$work/server.log
settings="server.listen=127.0.0.1:$port server.admin=127.0.0.1:$admin data.dir=$work/data"
settings="$settings engine.model=$model ${SET:-}"

flags=""
for setting in $settings; do flags="$flags --set $setting"; done
# shellcheck disable=SC2086 -- one word for each flag and value; paths must be without spaces
"$stent" serve $flags >"$log" 2>&1 &
server=$!
stop() {
    kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT INT TERM

waited=0
until python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/ready')" 2>/dev/null; do
    if ! kill -0 "$server" 2>/dev/null || [ "$waited" -ge 300 ]; then
        echo "bench: the server is not ready after $waited s; its last words:" >&2
        tail -n 20 "$log" >&2
        exit 1
    fi
    sleep 1
    waited=$((waited + 1))
done

"$stent" bench "http://127.0.0.1:$port" --pid "$server" "$@"
