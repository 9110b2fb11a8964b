# `make install` and `make dist`: what runs, without what builds it.
#   make install PREFIX=/usr/local DESTDIR=
#   make dist          target/dist/stent-VERSION-x86_64-linux.tar.gz

PREFIX ?= /usr/local
DESTDIR ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
DIST := stent-$(VERSION)-$(shell uname -m)-linux

.PHONY: install dist dist-check deploy-check

install:
	@test -x target/release/stent || { echo "stent: run make build first"; exit 1; }
	STENT_PREFIX="$(PREFIX)" deploy/package/install.sh target/release "$(DESTDIR)$(PREFIX)"
	@echo "stent: installed under $(DESTDIR)$(PREFIX)"

dist: build
	rm -rf target/dist/$(DIST)
	STENT_PREFIX=/usr/local deploy/package/install.sh target/release target/dist/$(DIST) --whole
	tar -C target/dist -czf target/dist/$(DIST).tar.gz $(DIST)
	@ls -l target/dist/$(DIST).tar.gz

# Unpacked in an empty place, with nothing in the environment: version, doctor, an answer.
dist-check: dist
	tests/dist.sh target/dist/$(DIST).tar.gz

# What deploy/ holds, as the programs read it that it is written for.
deploy-check: build
	deploy/check.sh

# In front of a server that is not ours: llama-cpp-python's, with the demo model.
.PHONY: upstream chaos
upstream: build
	tests/upstream.py target/release/stent

# Minutes in which everything around the gateway breaks while people talk.
CHAOS ?= 300
chaos: build
	STENT_CHAOS=$(CHAOS) $(CARGO) test --release --locked --test integration operations::chaos -- --nocapture

# The author's tutorial, command by command.
.PHONY: tutorial
tutorial: build
	tests/tutorial.py target/release/stent

test-all: upstream dist-check deploy-check
