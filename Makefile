# One target per intent, the same on a laptop and in CI. Needs python3 (3.11 or newer), make and PyPI; no sudo, no Docker.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := daemon tests clients
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos
UPSTREAM ?=

.DEFAULT_GOAL := help
.PHONY: help install dev demo test test-fast check lint types fmt protos protos-check bench bench-short storm limits large clean

help:           ## Show the targets.
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headrace needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: .venv/installed     ## Install into .venv; the program is .venv/bin/headrace.

dev: .venv/installed-dev     ## Install what tests and checks need, too.

demo: install                ## Show the main job, on loopback. UPSTREAM=https://api.anthropic.com asks the real API.
	$(BIN)/headrace demo $(if $(UPSTREAM),--upstream $(UPSTREAM))

test: dev                    ## Run all tests.
	$(BIN)/pytest

test-fast: dev               ## Run the tests that need no processes.
	$(BIN)/pytest tests/unit

check: lint types protos-check test bench-short   ## Everything that CI runs.

lint: dev                    ## Check style, imports and protos.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports --no-cache
	cd protos && ../$(BIN)/buf lint

types: dev                   ## Check types.
	$(BIN)/mypy

fmt: dev                     ## Format the code and mend what can be mended.
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	cd protos && ../$(BIN)/buf format -w

protos: dev                  ## Generate daemon/headrace/v1 from protos/.
	rm -f daemon/headrace/v1/*_pb2*
	$(PROTOC) --python_out=daemon --mypy_out=quiet:daemon protos/headrace/v1/*.proto
	$(PROTOC) --grpc_python_out=daemon --mypy_grpc_out=quiet:daemon protos/headrace/v1/*_service.proto

protos-check: protos         ## Fail if the generated code is not what protos/ say.
	@test -z "$$(git status --porcelain -- daemon/headrace/v1)" || { echo "daemon/headrace/v1 is stale: run make protos" >&2; exit 1; }

bench: dev                   ## Measure beside the floor, and print the table.
	$(BIN)/python -m tests.bench

bench-short: dev             ## The same in its short form: it must run and stay above half of the goals.
	$(BIN)/python -m tests.bench --short

limits: dev                  ## Hold two daemons to one limit for three minutes, and look at every window.
	$(BIN)/pytest tests/process/test_limit_promise.py --long -s

storm: dev                   ## Ride out a minute of 30 % 429 and 20 % 529.
	$(BIN)/pytest tests/process/test_ridden_out.py --long -s

large: dev                   ## Carry a gigabyte each way, and look at the daemon's memory.
	$(BIN)/pytest tests/process/test_large_bodies.py --long -s

clean:                       ## Remove what was installed and cached.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
