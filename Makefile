# Every command works on a fresh machine: it makes .venv and installs the pinned packages first.
# The system's Python rather than the first in the path: one that pyenv built takes up to twice the time for everything.
PYTHON ?= $(shell /usr/bin/python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo /usr/bin/python3 || echo python3)
BIN := .venv/bin
RUN_ARGS ?=

.PHONY: help run test test-clients fuzz check bench fmt clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

run: .venv/.runtime ## set up what is missing and serve on 127.0.0.1:3700, with a demo Poe server
	@exec $(BIN)/python manage.py run $(RUN_ARGS)

test: .venv/.dev .venv/.node ## the whole test suite, on SQLite and on a real PostgreSQL
	@$(BIN)/python -m tests.run

check: .venv/.dev ## linters, types, import rule, templates, migrations, deployment check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	git ls-files -z -- '*.html' | xargs -0 -r $(BIN)/djade --target-version 5.2 --check
	POE_RELAY_DATA_DIR=$$(mktemp -d) $(BIN)/python manage.py makemigrations --check --dry-run
	POE_RELAY_DATA_DIR=$$(mktemp -d) POE_RELAY_SERVER__PUBLIC_URL=https://relay.example.org $(BIN)/python manage.py check --deploy --fail-level WARNING

bench: .venv/.dev ## speed against the upstream itself, then streams held, long prompts, two workers, idle streams
	@$(BIN)/python -m bench.run --postgres; status=$$?; [ $$status -le 1 ] || exit $$status; \
	$(BIN)/python -m bench.scale || status=$$?; exit $$status

test-clients: .venv/.dev ## real clients, each in an environment of its own, over the demo Poe server; writes docs/clients.md
	@$(BIN)/python -m tests.clients.run

fuzz: .venv/.dev ## 100,000 spoiled bodies over the parses of all wire formats, then 20,000 requests that Schemathesis makes of our OpenAPI page
	@$(BIN)/python -m tests.fuzz.run

fmt: .venv/.dev ## format everything
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files -z -- '*.html' | xargs -0 -r $(BIN)/djade --target-version 5.2

# The official SDKs for Node, which a few tests ask the relay with. Without npm those tests are skipped, and say so.
.venv/.node: tests/sdk/package-lock.json tests/sdk/package.json | .venv/bin/python
	@mkdir -p .venv/node && cp tests/sdk/package.json tests/sdk/package-lock.json .venv/node/
	@if ! command -v npm >/dev/null; then echo "npm is missing: the tests with the Node SDKs will be skipped"; \
	else echo "Installing the Node SDKs into .venv/node ..." && \
	cd .venv/node && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && touch ../.node; fi

clean: ## remove the virtual environment and caches; never var/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "poe-relay needs Python 3.11 or newer: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "poe-relay needs Python 3.11 or newer; $(PYTHON) is older: run make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv is missing: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "The virtual environment could not be made in .venv: is this folder writable?"; exit 1; }

# On a Python that autobahn has no wheel for yet (3.15), its quicker WebSockets would need a compiler.
.venv/.runtime .venv/.dev: export AUTOBAHN_USE_NVX ?= 0

.venv/.runtime: requirements.txt | .venv/bin/python
	@echo "Installing packages into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.runtime
	@echo "Installing development packages into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
