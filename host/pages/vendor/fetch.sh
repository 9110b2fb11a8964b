#!/bin/sh
# Fetches the libraries of the chat page from npm, in these versions, with their licences:
#   host/pages/vendor/fetch.sh [--check]
# marked turns markdown into HTML, DOMPurify takes out of it whatever could run. Nothing is changed
# in them but the line that names a source map. --check compares what lies here instead.
set -eu

marked=18.2.1
dompurify=3.4.18

cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
. "$root/tests/pages/node.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

take() { # NAME VERSION FILE AS
    (cd "$work" && npm pack --silent "$1@$2" >/dev/null && mkdir "$1" && tar xzf "$1-$2.tgz" -C "$1")
    grep -v '^//# sourceMappingURL=' "$work/$1/package/$3" >"$work/$4"
    cp "$work/$1/package/LICENSE" "$work/$1.LICENSE"
}
take marked $marked lib/marked.esm.js marked.esm.js
take dompurify $dompurify dist/purify.es.mjs purify.es.js

for file in marked.esm.js marked.LICENSE purify.es.js dompurify.LICENSE; do
    if [ "${1-}" = --check ]; then
        cmp "$work/$file" "$file"
    else
        cp "$work/$file" "$file"
    fi
done
