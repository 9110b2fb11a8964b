#!/usr/bin/env bash
# Builds deploy/nextjs and clicks through it in Chromium: run.sh STENT
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=$(realpath "$1")
. "$root/tests/pages/node.sh"
(cd "$root/tests/pages" && npm ci --silent --no-audit --no-fund)
(cd "$root/deploy/nextjs" && npm ci --silent --no-audit --no-fund)
cd "$root"
exec node "$here/run.mjs" "$binary"
