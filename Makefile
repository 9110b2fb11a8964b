# make run   installs what is missing, builds, serves http://127.0.0.1:8000
# make test  everything that CI runs: format, lints, licences, tests

SHELL := /bin/bash
CARGO ?= cargo
ARGS ?=

.PHONY: run build test test-all templates plugins setup fmt lint deny unit clean
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

# Also what takes longer or needs more from the registries: lints and licences of everything, and
# the projects of `stent policy new` in every language.
test-all: test lint deny templates

templates: build
	@tests/templates.sh

lint: plugins
	$(CARGO) clippy --release --locked --all-targets -- -D warnings

deny:
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

clean:
	$(CARGO) clean
	cd plugins && $(CARGO) clean

include deploy/bench/bench.mk
