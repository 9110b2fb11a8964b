#!/bin/sh
# Fetches Mistral's vocabulary (Apache-2.0, 0.5 MB) from the Python package that carries it:
#   vocabulary.sh FILE
# Tests check with it that nobody can forge a turn; the benchmark's model is made with it.
set -eu

version=1.13.1
out=$1
[ ! -s "$out" ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! python3 -m pip --version >/dev/null 2>&1; then
    "${0%/*}/apt.sh" python3-pip ca-certificates
fi
if ! python3 -m pip download --quiet --no-deps --dest "$work" "mistral-common==$version"; then
    echo "stent: PyPI does not answer: put tokenizer.model.v1 of its package" \
        "mistral-common $version at $out and try again" >&2
    exit 1
fi
python3 -m zipfile -e "$work"/mistral_common-*.whl "$work"
mkdir -p "$(dirname "$out")"
mv "$work/mistral_common/data/tokenizer.model.v1" "$out"
