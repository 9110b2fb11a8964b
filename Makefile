# make run   installs what is missing, builds, serves http://127.0.0.1:8000
# make test  everything that CI runs: format, lints, tests; test-all: also licences, other clients

SHELL := /bin/bash
CARGO ?= cargo
ARGS ?=
ADVISORIES := https://github.com/RustSec/advisory-db

all: run

include deploy/bench/bench.mk
include tests/pages/pages.mk
include deploy/package/package.mk

.PHONY: all run build test test-all plugins setup fmt lint deny receiver rules templates soak bench-micro bench-telemetry bench-hits clean

run: build
	target/release/stent serve $(ARGS)

build: setup plugins
	$(CARGO) build --release --locked

# Compilers and headers that llama.cpp needs; a no-op where they are there.
setup:
	@deploy/setup/packages.sh

# The server that tests of shared stores start for themselves.
.PHONY: redis
redis:
	@command -v redis-server >/dev/null || deploy/setup/apt.sh redis-server

plugins: setup
	@plugins/build.sh

fmt:
	@$(CARGO) fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	$(CARGO) fmt --all --check
	cd plugins && $(CARGO) fmt --all --check

test: fmt lint build redis $(BENCH_VOCAB)
	cd plugins && $(CARGO) test --release --locked
	$(CARGO) test --release --locked

# A thousand swaps of policies under load: nothing fails, nothing is mixed, memory stays flat.
SOAK ?= 1000
soak: build
	STENT_SOAK=$(SOAK) $(CARGO) test --release --locked --test integration gateway::soak -- --nocapture

# A hundred kill -9 under load: nothing that was finished is lost.
KILLS ?= 100
.PHONY: kills bench-sessions
kills: build
	STENT_KILLS=$(KILLS) $(CARGO) test --release --locked --test integration sessions::kills

# What session stores cost: time of an append, memory; with Redis on a port of its own.
bench-sessions: redis
	deploy/bench/sessions.sh $(CARGO) bench --locked --bench sessions

# What policies and their changes cost, and what the engine does between two steps (criterion;
# reports in target/criterion).
bench-micro: plugins
	$(CARGO) bench --locked --bench policy --bench engine

# What telemetry costs a request, with collectors that are well, down, hung and slow (3 minutes).
bench-telemetry: build
	$(CARGO) bench --locked --bench telemetry

# What an answer from the cache costs through HTTP, beside a bare handler (docs/benchmarks.md).
bench-hits: plugins
	$(CARGO) bench --locked --bench hits

# Also what takes longer or needs more from the registries.
test-all: test deny receiver rules snippet templates

# The projects of `stent policy new` in every language.
templates: build
	@tests/templates.sh

lint: plugins
	@$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy
	$(CARGO) clippy --release --locked --all-targets -- -D warnings
	cd plugins && $(CARGO) clippy --release --locked --all-targets -- -D warnings

deny:
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources
	cd plugins && $(CARGO) deny --config ../deny.toml check bans licenses sources
	@# The advisories come from GitHub; without it the rest still counts.
	@if timeout 20 git ls-remote -q $(ADVISORIES) HEAD >/dev/null 2>&1; then \
	    $(CARGO) deny check advisories; \
	else echo "deny: advisories were not checked, $(ADVISORIES) does not answer"; fi

# The spans, as a collector that is not ours understands them, and as Jaeger's query API gives them
# back. SCREENSHOT=docs/trace.png takes the picture of Jaeger's page anew.
SCREENSHOT ?=
receiver: build
	tests/receiver.py target/release/stent
	tests/jaeger/build.sh
	tests/jaeger.py target/release/stent target/jaeger/debug/receiver $(if $(SCREENSHOT),--screenshot $(SCREENSHOT))

# The rules on made-up samples, then a real Prometheus on a real gateway.
rules: build redis
	@command -v promtool >/dev/null || deploy/setup/apt.sh prometheus
	promtool check config deploy/prometheus/prometheus.yml
	promtool test rules deploy/prometheus/rules.test.yml
	tests/prometheus.py target/release/stent

# The README's JavaScript, in a browser.
snippet: build
	@command -v chromium >/dev/null || deploy/setup/apt.sh chromium
	tests/snippet.py target/release/stent

.PHONY: clients proxy schema bench-gateway
test-all: clients proxy schema

# Other people's clients, unmodified, from PyPI and npm.
clients: build
	tests/clients/run.py target/release/stent

# nginx in front does not hold a stream back.
proxy: build
	@command -v nginx >/dev/null || deploy/setup/apt.sh nginx-light
	tests/proxy.py target/release/stent

# Whatever /openapi.json allows, and what it does not.
schema: build
	tests/schema.py target/release/stent

# What the gateway costs beside a bare handler, and how quickly it refuses.
bench-gateway: plugins
	$(CARGO) bench --locked --bench gateway

clean:
	$(CARGO) clean
	cd plugins && $(CARGO) clean
