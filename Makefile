# Everything a person or CI runs. Each target brings what it needs into .tox/ on its first run, from the package index that pip is set up for.
# The machine needs Python 3.11 or newer with its venv module, and make. Arguments go through ARGS: make test ARGS="tests/crypto -k kdf"

SHELL := /bin/sh
# the first Python that is new enough; PYTHON=... names another
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
ARGS ?=
TOX = "$(if $(PYTHON),$(PYTHON),$(error Phantom needs Python 3.11 or newer))" tools/bootstrap.py run --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast simulate soak test-bindings c kotlin kotlin-demo swift swift-demo wasm wasm-demo wasm-demo-shot conformance check format bench bench-check generate lock dist dev clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 | \2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

demo: ## a server, the sidecar and a client, end to end, with what a stranger would want to see
	@$(TOX) -e demo -- $(ARGS)

test: ## the whole test suite with its coverage gate
	@$(TOX) -e py -- $(ARGS)

test-fast: ## unit, property and security tests
	@$(TOX) -e fast -- $(ARGS)

simulate: ## plans of the network simulator, 200 seeds each
	@$(TOX) -e sim -- $(ARGS)

soak: ## the same with 1000 seeds each, and the long plans: goodput of fast and slow links, a day of rest
	@PHANTOM_SIM_SEEDS=1000 PHANTOM_SIM_LONG=1 $(TOX) -e sim -- $(ARGS)

test-bindings: ## every other language: bring its tools (Debian packages, as root), build it and test it
	@PYTHON="$(PYTHON)" sh bindings/c/install-tools.sh
	@status=0; for language in c kotlin swift wasm; do \
		echo "--- $$language"; $(MAKE) --no-print-directory $$language || status=1; done; exit $$status

c: ## build the C library into PREFIX=DIR (build/c), and test it as installed there
	@$(TOX) -e c -- $(ARGS)

kotlin: ## Phantom for Kotlin: build it and test it against live sidecars (brings a JDK and Maven: Debian packages, as root)
	@sh bindings/kotlin/install-tools.sh && $(TOX) -e kotlin -- $(ARGS) || \
		{ command -v mvn >/dev/null 2>&1 && exit 1; echo "NOT RUN: Phantom for Kotlin was neither built nor tested: no JDK and Maven" >&2; }

kotlin-demo: ## a server, a sidecar and a Kotlin program that uses both
	@sh bindings/kotlin/install-tools.sh
	@$(TOX) -e kotlin-demo -- $(ARGS)

swift: ## Phantom for Swift: build it and test it against live sidecars (brings the toolchain: 560 MB of Debian packages, no root)
	@$(TOX) -e swift -- $(ARGS)

swift-demo: ## a server, a sidecar and a Swift program that uses both
	@$(TOX) -e swift-demo -- $(ARGS)

wasm: ## Phantom for web pages: build it, test it in headless Chromium and Node (brings both: Debian packages, as root)
	@sh bindings/wasm/install-tools.sh || true
	@$(TOX) -e wasm -- $(ARGS)

wasm-demo: ## a server and a page that opens sessions with it; prints the URL
	@sh bindings/wasm/install-tools.sh
	@$(TOX) -e wasm-demo

wasm-demo-shot: ## take the screenshots of that page that the docs show (docs/operations/images)
	@sh bindings/wasm/install-tools.sh
	@$(TOX) -e wasm-demo -- --shoot docs/operations/images

conformance: ## every binding by the same cases; writes docs/reference/conformance.md (PHANTOM_C_PREFIX=DIR: C, too)
	@$(TOX) -e conformance -- $(ARGS)

check: ## format, lint, types, layers, dead code, dependencies, proto, workflows, links, drift
	@$(TOX) -e lint -- $(ARGS)

format: ## write what the formatters of `make check` want
	@$(TOX) -e lint -- --fix

bench: ## measure everything that is published (benchmarks/results/)
	@$(TOX) -e bench -- $(ARGS)

bench-check: ## count instructions of packets and handshakes (valgrind); fails when they rose by more than 5 %
	@$(TOX) -e bench-check -- $(ARGS)

generate: ## write the generated files from proto/
	@$(TOX) -e generate -- $(ARGS)

lock: ## resolve requirements/*.txt anew (UPGRADE=1: newest versions)
	@$(TOX) -e lock

dist: ## build sdist and wheel into dist/ and try the wheel
	@$(TOX) -e dist

dev: ## an environment for an editor or a shell in .venv
	@$(TOX) -e dev

clean: ## remove environments, caches and builds
	rm -rf .tox .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.* coverage.json htmlcov build dist *.egg-info
