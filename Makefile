# RelayMesh: `make demo` shows it, `make test` checks it; `make help` lists the rest.
#
# One .venv serves everything. It is built once from requirements.lock, whose hashes pin every file, and again only
# when pyproject.toml or requirements.lock changes. PYTHON=/path/to/python names an interpreter of your own choice.

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

VENV := .venv
VENV_REAL := .venv-real
STAMP := $(VENV)/.installed
STAMP_REAL := $(VENV_REAL)/.installed
NOSTR_TOOLS := tests/real/nostr_tools
STAMP_NODE := $(NOSTR_TOOLS)/node_modules/.package-lock.json
BIN := $(VENV)/bin

# What a candidate interpreter must prove by running: being there is not enough (version managers leave stand-ins).
FITS := import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))

define ADVICE
RelayMesh needs Python 3.11 or 3.12 with its venv module: install one (Debian and Ubuntu: \
apt install python3 python3-venv; macOS: brew install python@3.12) or name one with make PYTHON=/path/to/python.
endef

# $(call install,FOLDER,LOCK FILES): make FOLDER hold exactly what the lock files name, and RelayMesh itself, editable.
# uv, itself pinned by the lock, does in seconds what takes pip half a minute; it asks where pip is configured to ask, and
# pip does the job where uv cannot.
define install
	@set -eu; \
	if [ "$$(cat $(1)/.installed 2>/dev/null || echo '$(CURDIR)')" != '$(CURDIR)' ]; then rm -rf $(1); fi; \
	if ! $(1)/bin/python -c '$(FITS)' >/dev/null 2>&1 </dev/null; then \
	  python=; \
	  for candidate in $(PYTHON) python3.12 python3.11 python3; do \
	    if "$$candidate" -c '$(FITS)' >/dev/null 2>&1 </dev/null; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then echo '$(strip $(ADVICE))' >&2; exit 1; fi; \
	  echo "Creating $(1) with $$("$$python" --version), once."; \
	  "$$python" -m venv --clear $(1); \
	fi; \
	echo "Installing what $(strip $(2)) pins."; \
	pip() { $(1)/bin/python -m pip -qq --disable-pip-version-check --no-input install --no-deps "$$@"; }; \
	uv() { $(1)/bin/uv --quiet --system-certs pip install --no-deps --python $(1)/bin/python --compile-bytecode "$$@"; }; \
	mirror=$${PIP_INDEX_URL:-$$($(1)/bin/python -m pip config get global.index-url 2>/dev/null || :)}; \
	if [ -n "$$mirror" ]; then export UV_DEFAULT_INDEX="$$mirror"; fi; \
	export UV_HTTP_RETRIES=1; \
	sed -n '/^uv==/,/^ *# via/p' requirements.lock > $(1)/uv.txt; \
	pip --require-hashes -r $(1)/uv.txt; \
	uv --require-hashes $(patsubst %,-r %,$(2)) 2>$(1)/uv.log || { \
	  echo "uv could not ($(1)/uv.log says why): pip does it, which takes about a minute."; \
	  pip --require-hashes $(patsubst %,-r %,$(2)); \
	}; \
	pip --no-build-isolation --editable .; \
	echo '$(CURDIR)' > $(1)/.installed
endef

# A checkout that was copied or moved takes its .venv along, whose scripts still point at the old place.
ifneq ($(CURDIR),$(shell cat $(STAMP) 2>/dev/null))
$(STAMP): moved
endif
ifneq ($(CURDIR),$(shell cat $(STAMP_REAL) 2>/dev/null))
$(STAMP_REAL): moved
endif

$(STAMP): pyproject.toml requirements.lock
	$(call install,$(VENV),requirements.lock)

$(STAMP_REAL): pyproject.toml requirements.lock requirements-real.lock
	$(call install,$(VENV_REAL),requirements.lock requirements-real.lock)

$(STAMP_NODE): $(NOSTR_TOOLS)/package.json $(NOSTR_TOOLS)/package-lock.json
	@if command -v npm >/dev/null; then \
	  echo "Installing what $(NOSTR_TOOLS)/package-lock.json pins."; \
	  npm ci --prefix $(NOSTR_TOOLS) --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null; \
	else echo "npm is not there: the tests against nostr-tools are skipped."; fi

.PHONY: moved
moved:

##@ The two commands

.PHONY: demo test
demo: $(STAMP) ## A market on this machine: a relay, three nodes, a client, a purchase, its evidence
	@$(BIN)/relaymesh demo

test: format-check lint types layers pytest ## Everything that must hold before a change lands

##@ The parts of `make test`

.PHONY: format-check lint types layers pytest docs-check
format-check: $(STAMP) ## ruff: the one way our code is laid out
	@echo "ruff format"; $(BIN)/ruff format --check --quiet . || { echo "make format lays it out"; exit 1; }

lint: $(STAMP) ## ruff: rules
	@echo "ruff check"; $(BIN)/ruff check --quiet .

types: $(STAMP) ## mypy: strict, on code, tests and benchmarks
	@echo "mypy"; $(BIN)/mypy --no-error-summary

layers: $(STAMP) ## import-linter: imports only go down
	@echo "import-linter"; $(BIN)/lint-imports --no-logo >$(VENV)/layers.log 2>&1 || { cat $(VENV)/layers.log; exit 1; }

# Tests that start real processes mostly wait for them, so they run beside all the others; their report comes last.
PROCESSES := tests/cli tests/chaos

pytest: $(STAMP) ## pytest: all tests but those that need other people's programs
	@echo "pytest"; log=$(VENV)/processes.log; \
	$(BIN)/python -m pytest --quiet -p no:cacheprovider $(PROCESSES) >$$log 2>&1 & beside=$$!; \
	$(BIN)/python -m pytest --quiet --ignore=tests/real $(addprefix --ignore=,$(PROCESSES)); others=$$?; \
	wait $$beside; processes=$$?; echo "pytest $(PROCESSES)"; cat $$log; \
	[ $$others -eq 0 ] && [ $$processes -eq 0 ]

docs-check: $(STAMP) ## The documentation's own tests: generated parts, references, code blocks
	@$(BIN)/python -m pytest --quiet tests/house

##@ The long suites

# pytest's word for "nothing was selected": no such suite is written yet, which is no failure.
NONE_YET := [ $$? -eq 5 ]

.PHONY: real chaos fuzz soak bench coverage
real: $(STAMP_REAL) $(STAMP_NODE) ## Against other people's programs; what is absent is skipped here and fails in CI
	@$(VENV_REAL)/bin/python -m pytest --quiet tests/real

chaos: $(STAMP) ## Kill either side at every step, and anything at any time
	@$(BIN)/python -m pytest --quiet -m chaos --ignore=tests/real || $(NONE_YET)

fuzz: $(STAMP) ## Every property again, unseeded and with many more examples
	@HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest --quiet --timeout=3600 --ignore=tests/real -m hypothesis

soak: $(STAMP) ## Hours of traffic
	@$(BIN)/python -m pytest --quiet -m soak --ignore=tests/real || $(NONE_YET)

coverage: $(STAMP) ## What the tests execute, line by line, in .coverage-report
	@$(BIN)/python -m pytest --quiet --ignore=tests/real --cov \
	  --cov-report=term --cov-report=html:.coverage-report

# relay_bench measures any relay that already runs, from its own command line.
bench: $(STAMP) ## Every benchmark, one JSON object each
	@for name in $$(grep -l '^if __name__ ==' bench/*.py | sed 's,bench/\(.*\)\.py,\1,' | grep -v relay_bench); do \
	  $(BIN)/python -m "bench.$$name" --json; \
	done

##@ For those who change the code

.PHONY: format docs lock clean help
format: $(STAMP) ## Lay the code out and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix .; $(BIN)/ruff format --quiet .

docs: $(STAMP) ## Write the generated parts of docs/ and nips/ anew
	@$(BIN)/python -m tests.house.generate

COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --upgrade --quiet

lock: $(STAMP) ## Resolve both locks anew from pyproject.toml
	@$(COMPILE) --group development --output-file requirements.lock
	@$(COMPILE:pyproject.toml=) --group real --constraint requirements.lock --output-file requirements-real.lock

clean: ## Remove everything that was built here
	@rm -rf $(VENV) $(VENV_REAL) $(NOSTR_TOOLS)/node_modules dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@rm -rf .coverage .coverage.* .coverage-report && find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {print "\n" substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile
