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
# shellcheck disable=SC2086 # one word a package
exec "${0%/*}/apt.sh" $missing
