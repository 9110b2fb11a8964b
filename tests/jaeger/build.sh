#!/bin/sh
# Builds the receiver of tests/jaeger.py: target/jaeger/debug/receiver
set -eu
cd "${0%/*}"
CARGO_TARGET_DIR=$(cd ../.. && pwd)/target/jaeger
export CARGO_TARGET_DIR
PROTOC=$(cargo run --quiet --locked --package protoc)
export PROTOC
exec cargo build --quiet --locked --package receiver
