#!/bin/sh
# Runs a command with STENT_BENCH_REDIS set to a Redis that syncs every write, on a free port:
#   sessions.sh COMMAND...
set -eu

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
work=$(mktemp -d -p .)
redis-server --port "$port" --bind 127.0.0.1 --dir "$work" --save "" \
    --appendonly yes --appendfsync always >"$work/log" 2>&1 &
redis=$!
trap 'kill $redis 2>/dev/null; wait $redis 2>/dev/null || true; rm -rf "$work"' EXIT INT TERM
until redis-cli -p "$port" ping >/dev/null 2>&1; do sleep 0.1; done
STENT_BENCH_REDIS="redis://127.0.0.1:$port/0" "$@"
