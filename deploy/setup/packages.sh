#!/bin/sh
# Installs what building llama.cpp needs beyond Rust, gcc, make and git: cmake, clang, libclang.
set -eu

missing=
command -v cmake >/dev/null || missing="$missing cmake"
command -v clang >/dev/null || missing="$missing clang"
command -v g++ >/dev/null || missing="$missing g++"
command -v cc >/dev/null || missing="$missing gcc"
ls /usr/lib/llvm-*/lib/libclang.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1 ||
    ls /usr/lib/llvm-*/lib/libclang-*.so* >/dev/null 2>&1 || missing="$missing libclang-dev"

if ! command -v cargo >/dev/null; then
    echo "stent: cargo is not installed: get Rust 1.95 or newer from https://rustup.rs" >&2
    exit 1
fi
[ -n "$missing" ] || exit 0

by_hand() {
    echo "stent: $1: install these packages and try again:$missing" >&2
    exit 1
}
command -v apt-get >/dev/null || by_hand "this system has no apt-get"
sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || by_hand "you are not root and there is no sudo"
    sudo=sudo
fi
echo "stent: installing$missing"
$sudo apt-get update -q || by_hand "apt-get update failed"
# shellcheck disable=SC2086 # one word a package
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing ||
    by_hand "apt-get install failed"
