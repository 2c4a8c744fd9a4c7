# kvof: what people run. `make` alone lists it. The folder target/ is source, so Cargo builds into .build.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export CARGO_TARGET_DIR := $(CURDIR)/.build
export CARGO_TERM_COLOR ?= auto

STAMPS := .build/stamps
# A guest that cannot run fails the tests instead of being skipped; `make test KVOF_REQUIRE_GUEST=` skips it.
KVOF_REQUIRE_GUEST ?= 1
FUZZ_SECONDS ?= 60
SEED ?=
HOURS ?= 0.05
ARGS ?=

# How often `make torture` kills the target; `make test` has a short run.
KILLS ?= 3000

.PHONY: help setup build demo test unit docs interop torture torture-short bench bench-peers bench-scale flame bench-check lint sim fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(STAMPS)/tools $(STAMPS)/guest ## install what is needed (Debian packages) and unpack the test guest's kernels

$(STAMPS)/tools: tools/setup
	@tools/setup
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/guest: interop-tests/setup.sh
	@interop-tests/setup.sh
	@mkdir -p $(STAMPS) && touch $@

build: $(STAMPS)/tools ## build the target and the kvof command, optimised
	cargo build --release --locked --bins -p kvof-target -p kvof-tools

demo: build ## serve a KV namespace, store at least 1 GiB of files in it, verify every byte
	cargo run --release --locked --quiet -p kvof-tools --example demo

test: setup ## every check: format, lints, unit tests, documentation, the Linux kernel as host
	@tools/steps lint unit docs torture-short interop

lint: ## rustfmt, clippy, and cargo-deny where it is installed
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny --locked check; \
	else echo "cargo-deny is not installed: licences and advisories are not checked (cargo install cargo-deny)"; fi

unit: ## unit and integration tests on this machine alone
	@if command -v cargo-nextest >/dev/null; then \
		cargo nextest run --workspace --exclude kvof-interop --locked --no-fail-fast; \
		cargo test --workspace --exclude kvof-interop --locked --doc --quiet; \
	else cargo test --workspace --exclude kvof-interop --locked --no-fail-fast; fi
	cargo test --locked -p kvof-interop --test hygiene

docs: ## API documentation of every crate, without warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --locked --quiet

interop: setup ## the stock Linux kernels 6.12 and 6.1 in a guest, with nvme-cli, against the target
	cargo build --release --locked --bins -p kvof-target -p kvof-tools -p kvof-guest
	KVOF_REQUIRE_GUEST=$(KVOF_REQUIRE_GUEST) cargo test --locked -p kvof-interop --lib --bins --test guest --test panic
	KVOF_BIN_DIR=$(CARGO_TARGET_DIR)/release KVOF_REQUIRE_GUEST=$(KVOF_REQUIRE_GUEST) cargo test --locked -p kvof-interop --test linux -- --nocapture

torture: build ## kill the target under load KILLS times (3000), damage devices, verify what was acknowledged
	cargo run --release --locked --quiet -p kvof-tools --example torture -- --kills $(KILLS)

torture-short: build
	cargo run --release --locked --quiet -p kvof-tools --example torture -- --kills 30

$(STAMPS)/bench: interop-tests/bench/setup.sh
	@interop-tests/bench/setup.sh
	@mkdir -p $(STAMPS) && touch $@

bench: build $(STAMPS)/bench ## figures for docs/performance.md
	@tools/bench

# SPDK: a built SPDK tree; without it the kernel's nvmet in the test guest. ARGS: what tools/bench-peers takes.
bench-peers: build $(STAMPS)/bench ## kvof beside SPDK (SPDK=DIR), Redis and a raw stream, one core each
	@tools/bench-peers $(if $(SPDK),--spdk $(SPDK)) $(ARGS)

bench-scale: build $(STAMPS)/bench ## two cores, 1,000 idle connections, fairness, polling. ARGS: what tools/bench-scale takes
	@tools/bench-scale $(ARGS)

flame: build $(STAMPS)/bench ## flame graphs of the target's paths in docs/performance (needs perf)
	@tools/flame $(ARGS)

$(STAMPS)/bench-check: tools/instructions/setup
	@tools/instructions/setup
	@mkdir -p $(STAMPS) && touch $@

# UPDATE=1 writes the numbers instead. ARGS: parts of names, and what tools/instructions/src/main.rs takes.
bench-check: $(STAMPS)/tools $(STAMPS)/bench-check ## instructions per operation beside the committed numbers
	@cargo run --release --locked --quiet -p kvof-instructions -- $(if $(UPDATE),--update) $(ARGS)

# SEED: decimal or 0x hexadecimal, empty for a fresh one. HOURS may be a fraction. ARGS: see docs/simulator.md.
sim: ## the engine under simulated faults for HOURS (0.05) from SEED (fresh): prints what repeats a failure
	cargo run --profile test --locked --quiet -p kvof-store --example sim -- --seed "$(SEED)" --hours "$(HOURS)" $(ARGS)

fuzz: ## run each fuzz body for FUZZ_SECONDS (60); needs a nightly toolchain
	@fuzz/run.sh $(FUZZ_SECONDS)

clean: ## remove everything that was built (never the source folder target/)
	rm -rf .build
