#!/bin/bash
# Builds, checks and tests every project that `stent policy new` can write, as an author would, and
# drops each into a gateway that serves meanwhile.
#
#   tests/templates.sh [rust|js|python|c]...
#
# Needs target/release/stent. Node, Python's venv, clang, lld and make are installed where they are
# missing; everything else comes into target/templates from npm, PyPI and crates.io.
set -euo pipefail
cd "$(dirname "$0")/.."
stent=$PWD/target/release/stent
work=$PWD/target/templates
log=$work/log
export CARGO_TARGET_DIR=$work/cargo PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    echo "templates.sh: $1" >&2
    exit 1
}

# What an operator may get wrong, and what the policy says then.
mistakes() {
    case $1 in
    guard) echo 'max_chars=0|config.max_chars: found 0, expected a whole number from 1 to 100000' ;;
    trim)
        echo 'messages=x|config.messages: found "x", expected a whole number from 1 to 1000'
        echo 'nonsense=1|config.nonsense: unknown key, expected one of "messages"'
        ;;
    prompt) echo 'system=a [INST] b|config.system: found [INST], expected text without it' ;;
    cache) echo 'ttl_seconds=-1|config.ttl_seconds: found -1, expected a whole number from 1 to 604800' ;;
    filter) echo 'word=|config.word: found "", expected a text of 1 to 100 characters' ;;
    esac
}

apt() {
    local sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing $*"
    { $sudo apt-get update -q && $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "$@"; } >"$log" 2>&1 ||
        { tail -5 "$log" >&2 && fail "these packages cannot be installed: $*"; }
}

node_is_new() { [ "$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)" -ge 20 ]; }

tools() {
    command -v make >/dev/null || apt make
    case $1 in
    rust) cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt ;;
    js)
        command -v npm >/dev/null || apt nodejs npm
        # Debian's own may be older; npm has every version.
        if ! node_is_new && [ ! -x "$work/node/node_modules/.bin/node" ]; then
            echo "installing node 20"
            npm install --prefix "$work/node" --no-audit --no-fund node@20 >"$log" 2>&1 ||
                { tail -5 "$log" >&2 && fail "node 20 cannot be installed by npm"; }
        fi
        node_is_new || PATH=$work/node/node_modules/.bin:$PATH
        node_is_new || fail "node $(node --version) is too old, expected 20 or newer"
        ;;
    python) python3 -c 'import ensurepip, venv' 2>/dev/null || apt python3 python3-venv ;;
    c)
        command -v clang >/dev/null || apt clang
        # lld has clang's version.
        clang --target=wasm32 -nostdlib -Wl,--no-entry -o "$work/probe" -x c /dev/null \
            2>/dev/null || apt lld
        ;;
    esac
}

# One step of one project; its output is shown where it fails.
step() {
    local what=$1
    shift
    if ! "$@" >"$log" 2>&1; then
        tail -30 "$log" >&2
        fail "$project: $what failed"
    fi
}

# The first project of a language installs; the others borrow from it what it installed.
borrow() {
    local installed first=$work/$1-${hooks[0]}
    for installed in node_modules .venv; do
        if [ -d "$first/$installed" ] && [ ! -e "$installed" ]; then
            ln -s "$first/$installed" "$installed"
            touch "$installed/"
        fi
    done
}

# A gateway without a model, for as long as this script runs.
serve() {
    local public=$((20000 + RANDOM % 20000))
    chat=127.0.0.1:$public/chat admin=127.0.0.1:$((public + 1))
    rm -rf "$work/serve" && mkdir -p "$work/serve/policies"
    "$stent" serve --listen "127.0.0.1:$public" --admin "$admin" --policies "$work/serve/policies" \
        --data "$work/serve/data" --set engine.kind=scripted >"$work/serve/log" 2>&1 &
    gateway=$!
    trap 'kill "$gateway" 2>/dev/null' EXIT
    for _ in {1..300}; do
        ! curl -sf "127.0.0.1:$public/ready" >/dev/null || return 0
        kill -0 "$gateway" 2>/dev/null || break
        sleep 0.1
    done
    tail -5 "$work/serve/log" >&2
    fail "the gateway does not get ready"
}

# From the file's name in the folder to its first answer, in seconds; what served before goes on.
drop() {
    local hook=$1 dropped now
    cp "$project.wasm" "$work/serve/policies/.drop.tmp"
    dropped=$(date +%s%N)
    mv "$work/serve/policies/.drop.tmp" "$work/serve/policies/$hook.wasm"
    while :; do
        curl -sf "$chat" -H 'content-type: application/json' -d '{"message": "Hello"}' \
            >"$log" || fail "$project: a request failed while it was taken in"
        now=$(date +%s%N)
        "$stent" policy list --admin "$admin" >"$log"
        ! grep -qE "^$hook +live +$project " "$log" || break
        if grep -q rejected "$log" || [ $((now - dropped)) -gt $((most * 1000000000)) ]; then
            cat "$log" >&2
            fail "$project does not serve within $most s"
        fi
        sleep 0.05
    done
    curl -sf "$chat" -H 'content-type: application/json' -d '{"message": "Hello again"}' >"$log" ||
        fail "$project: the first request that it serves failed"
    taken=$(printf '%d.%02d' $(((now - dropped) / 1000000000)) $(((now - dropped) / 10000000 % 100)))
}

# Seconds that a dropped file may take until it serves: 12 to 18 MB of JavaScript's or Python's own
# machinery have to be compiled. On a machine that does nothing else 20 are the aim; among others
# that compile as well it takes its time.
aim=20 most=90

one() {
    local lang=$1 hook=$2 begun=$SECONDS key said
    project=$lang-$hook
    step new "$stent" policy new "$project" --hook "$hook" --lang "$lang" --dir "$work"
    cd "$work/$project"
    borrow "$lang"
    step make make
    local built=$((SECONDS - begun))
    step check "$stent" policy check "$project.wasm"
    step test "$stent" policy test "$project.wasm"
    while IFS='|' read -r key said; do
        if "$stent" policy check "$project.wasm" --set "policies.$hook.config.$key" >"$log" 2>&1 ||
            ! grep -qF "$said" "$log"; then
            cat "$log" >&2
            fail "$project: policies.$hook.config.$key is not answered with: $said"
        fi
    done < <(mistakes "$hook")
    local checked=$((SECONDS - begun - built))
    drop "$hook"
    printf 'ok  %-14s %9d bytes, built in %d s, checked and tested in %d s, serves after %s s\n' \
        "$project" "$(stat -c %s "$project.wasm")" "$built" "$checked" "$taken"
    [ "${taken%.*}" -lt "$aim" ] || echo "slow: $project took $taken s to serve, $aim s are the aim"
}

[ -x "$stent" ] || fail "target/release/stent is missing: run \`make build\`"
[ $# -gt 0 ] || set -- rust js python c
hooks=(guard trim prompt cache filter)
mkdir -p "$work"
serve
for lang in "$@"; do
    case $lang in
    rust | js | python | c) ;;
    *) fail "$lang is no language of a template, expected rust, js, python or c" ;;
    esac
    tools "$lang"
    for hook in "${hooks[@]}"; do
        rm -rf "${work:?}/$lang-$hook"
    done
    for hook in "${hooks[@]}"; do
        one "$lang" "$hook"
    done
done
