# The pages in a browser: part of test-all.

.PHONY: pages vendored nextjs

test-all: pages vendored nextjs

# Both pages, against real gateways; SHOTS=docs/pages makes new pictures for the README.
SHOTS ?=
pages: build
	@command -v chromium >/dev/null || deploy/setup/apt.sh chromium
	tests/pages/run.sh target/release/stent $(if $(SHOTS),--screenshots $(SHOTS))

# The vendored libraries are what npm has in their versions.
vendored:
	host/pages/vendor/fetch.sh --check

# The Next.js page, built and clicked through.
nextjs: build
	@command -v chromium >/dev/null || deploy/setup/apt.sh chromium
	tests/nextjs/run.sh target/release/stent
