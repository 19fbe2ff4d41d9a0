# Two commands do everything on a Debian machine with Rust and git: `make demo` and `make test`.
#
# Everything is built in one profile (release), so that RocksDB, most of a cold build, is compiled once for all of
# check, clippy, doc, build and test.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
# Wherever cargo is configured to build.
TARGET = $(shell $(CARGO) metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
WORKSPACE := --release --workspace --locked

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: build ## Install what is missing, build, and show the whole story in under a minute
	$(TARGET)/release/tidemark demo

.PHONY: test
test: test-packages fmt clippy doc scripts-check rules deny-if-there doc-tests tests ## All checks and tests: what CI runs

.PHONY: build
build: build-packages ## The binary, target/release/tidemark
	$(CARGO) build $(WORKSPACE) --bins

.PHONY: fmt
fmt: ## Formatting, checked
	$(CARGO) fmt --all --check

.PHONY: clippy
clippy: build-packages ## Lints, warnings are errors
	$(CARGO) clippy $(WORKSPACE) --all-targets -- -D warnings

.PHONY: doc
doc: build-packages ## The API's documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(WORKSPACE) --no-deps

.PHONY: doc-tests
doc-tests: build-packages ## The examples in the documentation
	$(CARGO) test $(WORKSPACE) --doc --quiet

# The binary first: scenarios run it as a process. Most of them wait most of the time: one more at once than there are processors.
TEST_THREADS ?= $(shell echo $$(($$(nproc) + 1)))
.PHONY: tests
tests: test-packages build ## All tests, with nextest where it is installed
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    set -x; TIDEMARK_BIN="$(TARGET)/release/tidemark" $(CARGO) nextest run $(WORKSPACE) --no-fail-fast --test-threads $(TEST_THREADS); \
	else \
	    echo "cargo-nextest is not installed (cargo install --locked cargo-nextest): cargo test instead" >&2; \
	    set -x; TIDEMARK_BIN="$(TARGET)/release/tidemark" $(CARGO) test $(WORKSPACE) --all-targets --no-fail-fast; \
	fi

.PHONY: mutants
mutants: test-packages ## Break mechanisms on purpose: the tests that keep the invariants must fail
	@scripts/mutants $(MUTANTS)

# Peers come with the test packages. The table, the JSON and the picture go to target/bench.
BENCH = $(TARGET)/release/tidemark-bench $(if $(FULL),--full) $(if $(ONLY),--only $(ONLY))
.PHONY: bench
bench: test-packages build ## Beside other people's servers: make bench (5 minutes), make bench FULL=1 (30), ONLY=hosts
	TIDEMARK_BIN="$(TARGET)/release/tidemark" $(BENCH) --out "$(TARGET)/bench"

.PHONY: bench-compare
bench-compare: test-packages build ## Beside another build of ours: make bench-compare REV=main
	TIDEMARK_BIN="$(TARGET)/release/tidemark" $(BENCH) --out "$(TARGET)/bench-compare" \
	    --compare "$$(scripts/build-revision "$(or $(REV),HEAD)" "$(TARGET)")"

.PHONY: bench-parts
bench-parts: build-packages ## What one step of the way costs by itself: make bench-parts PART=ring
	$(CARGO) bench --locked --quiet -p tidemark-tests --bench parts -- $(PART)

SEEDS ?= 1000
FROM ?= 1
KIND ?= plain
.PHONY: simulate
simulate: test-packages ## Simulate both engines, one run for each seed: make simulate SEEDS=50000 FROM=1 KIND=plain|quick|history|damage|roles|pressure
	SEEDS=$(SEEDS) FROM=$(FROM) KIND=$(KIND) $(CARGO) test --release --locked --quiet -p tidemark-tests --test simulation -- \
	    --ignored --exact many --nocapture

# One test each, with nothing beside it; what it prints is what it has been through.
ORDEAL = TIDEMARK_BIN="$(TARGET)/release/tidemark" $(CARGO) test --release --locked --quiet -p tidemark-tests \
    --test scenarios -- --ignored --exact --nocapture
.PHONY: kills soak verifies
kills: test-packages build ## kill -9 of either side under load, again and again: make kills ROUNDS=300 SEED=1
	$(ORDEAL) ordeal::kills
soak: test-packages build ## Everything that can befall a pair, PostgreSQL on top: make soak MINUTES=60 SEED=1
	$(ORDEAL) ordeal::soak
verifies: test-packages build ## Comparisons under full load, and bits planted where no host writes: make verifies MINUTES=60 SEED=1
	$(ORDEAL) verify::verifies

.PHONY: rules
rules: test-packages ## Prometheus configuration and alerts, by promtool
	promtool check config grafana/prometheus.yml
	promtool test rules grafana/alerts_test.yml

.PHONY: scripts-check
scripts-check:
	@for script in .ci/run scripts/build-revision scripts/install-debian-packages scripts/mutants scripts/profile; do bash -n $$script; done
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run scripts/*; fi

.PHONY: deny
deny: ## Licences, bans and sources of dependencies, by cargo-deny
	$(CARGO) deny --locked --all-features check licenses bans sources

# Advisories need a copy of the advisory database, so they are not part of any other target.
.PHONY: advisories
advisories: ## Known vulnerabilities of dependencies, by cargo-deny, from the network
	$(CARGO) deny --locked check advisories

.PHONY: deny-if-there
deny-if-there:
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(MAKE) deny; \
	else echo "cargo-deny is not installed (cargo install --locked cargo-deny): licences and sources are not checked" >&2; fi

FUZZ_TARGETS := nbd_request nbd_session wire_message frame_codec journal_scan
SECONDS ?= 60
# The instrumentation is an unstable option of the stable compiler, hence RUSTC_BOOTSTRAP. Without an address sanitizer:
# there is no unsafe code of ours to watch, and RocksDB need not be built once more for it.
FUZZ_RUN = cd fuzz && RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir . --sanitizer none

# What is found on the way stays in fuzz/target; `make fuzz-keep` adds what reaches new code to the corpus in the tree.
.PHONY: fuzz fuzz-keep
fuzz: fuzz-tool ## Fuzz every parser of bytes from outside: make fuzz SECONDS=60 (for each)
	@for target in $(FUZZ_TARGETS); do mkdir -p fuzz/target/corpus/$$target; \
	    (set -x; $(FUZZ_RUN) $$target target/corpus/$$target corpus/$$target -- \
	        -max_total_time=$(SECONDS) -timeout=20 -rss_limit_mb=2048 -print_final_stats=1); \
	done
fuzz-keep: fuzz-tool
	@for target in $(FUZZ_TARGETS); do mkdir -p fuzz/target/corpus/$$target; \
	    (set -x; $(FUZZ_RUN) $$target corpus/$$target target/corpus/$$target -- \
	        -merge=1 -use_counters=0 -max_len=600); \
	done
.PHONY: fuzz-tool
fuzz-tool: build-packages
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz

.PHONY: build-packages test-packages
build-packages:
	@scripts/install-debian-packages build
test-packages:
	@scripts/install-debian-packages test

.PHONY: clean
clean: ## Remove what was built; the compiler cache in ~/.cache/tidemark stays
	$(CARGO) clean
