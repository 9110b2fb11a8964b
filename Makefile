# make run   installs what is missing, builds, serves http://127.0.0.1:8000
# make test  everything that CI runs: format, lints, licences, tests

SHELL := /bin/bash
CARGO ?= cargo
ARGS ?=

.PHONY: run build test test-all soak bench-micro plugins setup fmt lint deny unit clean
run: build
	target/release/stent serve $(ARGS)

build: setup plugins
	$(CARGO) build --release --locked

# Compilers and headers that llama.cpp needs; a no-op where they are there.
setup:
	@deploy/setup/packages.sh

plugins: setup
	@plugins/build.sh

fmt:
	$(CARGO) fmt --all --check
	cd plugins && $(CARGO) fmt --all --check

test: build
	cd plugins && $(CARGO) test --release --locked
	$(CARGO) test --release --locked

# A thousand swaps of policies under load: nothing fails, nothing is mixed, memory stays flat.
SOAK ?= 1000
soak: build
	STENT_SOAK=$(SOAK) $(CARGO) test --release --locked --test integration gateway::soak -- --nocapture

# What policies and their changes cost (criterion; reports in target/criterion).
bench-micro: plugins
	$(CARGO) bench --locked --bench policy

# Also what takes longer or needs more from the registries: lints and licences of everything.
test-all: test lint deny

lint: plugins
	$(CARGO) clippy --release --locked --all-targets -- -D warnings

deny:
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

clean:
	$(CARGO) clean
	cd plugins && $(CARGO) clean

include deploy/bench/bench.mk
