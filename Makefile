# One target per intent, the same on a laptop and in CI. Needs python3 (3.11 or newer), make and PyPI; no sudo, no Docker.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := daemon tests clients deploy hatch_build.py
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos
UPSTREAM ?=
ROW ?=
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
TOOLS := .venv-tools/bin
TARGET ?=
N ?=
SEED ?=
MINUTES ?=
OTHERS := .venv-others/bin
CLIENT_V1 := clients/python/headrace_client/v1
# Only what goes wrong, but that: with --silent a failure has no words.
NPM := npm --loglevel=error --prefix clients/typescript
NODE_MODULES := clients/typescript/node_modules/.package-lock.json
# Some tests compare with the SDK in TypeScript; where there is no npm they are skipped, and fail in CI.
NODE_TESTS := $(if $(shell command -v npm),$(NODE_MODULES))

# What it measures is how long 31 MB are copied, which takes several times as long where others fill the memory's bus.
BY_ITSELF := tests/process/test_stalls.py

# All workers read all tests. What one of them has compiled the others find, if it may be left anywhere.
unexport PYTHONDONTWRITEBYTECODE

UPGRADE ?=
COMPILE = $(TOOLS)/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --no-annotate --generate-hashes \
	--custom-compile-command "make pins"

.DEFAULT_GOAL := help
.PHONY: help install dev demo test test-long test-fast check collect lint types fmt protos protos-check bench bench-short truth truth-short hostile hostile-short chaos chaos-short chaos-quick chaos-nth soak storm upgrade limits any-order screenshots questions page-cost large figures clients client-typescript client-go endpoints others others-pins pins sbom third-parties wheels packages release packaged dashboard docs man fuzz haproxy envoy clean

help:           ## Show the targets.
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# Nothing is installed that was not pinned by its hash, the build's own tools included; ourselves without asking anybody.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headrace needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(PIP) install --require-hashes -r constraints.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/installed-dev: .venv/installed pins/dev.txt clients/python/pyproject.toml
	$(PIP) install --require-hashes -r pins/dev.txt
	$(PIP) install --no-deps --no-build-isolation -e . -e clients/python
	$(BIN)/python -m pip check --disable-pip-version-check
	@touch $@

.venv-tools/installed: pins/tools.txt
	$(PYTHON) -m venv .venv-tools
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r pins/tools.txt
	@touch $@

install: .venv/installed     ## Install into .venv; the program is .venv/bin/headrace.

dev: .venv/installed-dev     ## Install what tests and checks need, too.

demo: install                ## Show the main job, on loopback. UPSTREAM=https://api.anthropic.com asks the real API.
	$(BIN)/headrace demo $(if $(UPSTREAM),--upstream $(UPSTREAM))

test: dev $(NODE_TESTS)      ## Run all tests.
	$(BIN)/pytest -n 4 --dist worksteal --ignore $(BY_ITSELF)
	$(BIN)/pytest $(BY_ITSELF)

test-long: dev $(NODE_TESTS)  ## Run all tests in their long forms; an hour or two.
	$(BIN)/pytest -n 2 --dist worksteal --long

test-fast: dev               ## Run the tests that need no processes.
	$(BIN)/pytest tests/unit

# Two at a time, and what each says when it has ended. What writes generated code comes before them, what measures after them.
BESIDE := lint clients types collect others docs

check: protos-check          ## Everything that CI runs; `make packaged`, 9 minutes more, is for releases.
	+$(MAKE) --jobs 2 --output-sync=target $(BESIDE)
	+$(MAKE) --jobs 1 test bench-short truth-short hostile-short chaos-quick

collect: dev                 ## Read all tests, and compile them for those who run them.
	$(BIN)/pytest --collect-only -q

lint: dev                    ## Check style, imports and protos.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports --no-cache
	cd protos && ../$(BIN)/buf lint

types: dev                   ## Check types.
	$(BIN)/mypy
	cd clients/python && ../../$(BIN)/mypy

fmt: dev                     ## Format the code and mend what can be mended.
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	cd protos && ../$(BIN)/buf format -w

protos: dev                  ## Generate code from protos/, for the daemon and for the client in Python.
	rm -f daemon/headrace/v1/*_pb2*
	$(PROTOC) --python_out=daemon --mypy_out=quiet:daemon protos/headrace/v1/*.proto
	$(PROTOC) --grpc_python_out=daemon --mypy_grpc_out=quiet:daemon protos/headrace/v1/*_service.proto
	rm -f $(CLIENT_V1)/*_pb2*
	cd daemon/headrace/v1 && for file in *_pb2*; do \
		sed 's/^from headrace\.v1 import /from headrace_client.v1 import /' $$file > $(CURDIR)/$(CLIENT_V1)/$$file; done

protos-check: protos         ## Fail if the generated code is not what protos/ say.
	@test -z "$$(git status --porcelain -- daemon/headrace/v1 $(CLIENT_V1))" || \
		{ echo "the generated code is stale: run make protos, and commit what it makes" >&2; exit 1; }

bench: dev                   ## Measure beside the floor, and print the table.
	$(BIN)/python -m tests.bench

bench-short: dev             ## The same in its short form: it must run and stay above half of the goals.
	$(BIN)/python -m tests.bench --short

truth: dev                   ## Measure what is promised of limits, order and loss, at upstream's door. ROW="no-limit lanes" picks some.
	$(BIN)/python -m tests.truth $(ROW)

truth-short: dev             ## The same in its short form: what was reached must still be.
	$(BIN)/python -m tests.truth --short $(ROW)

limits: dev                  ## Hold two daemons to one limit for three minutes, and look at every window.
	$(BIN)/pytest tests/process/test_limit_promise.py --long -s

any-order: dev               ## Let daemons, Redis and clocks do what they will, in two thousand orders, and keep the books.
	$(BIN)/pytest tests/contract/test_any_order.py tests/contract/test_tickets_any_order.py --long -s

fuzz: dev                    ## Give every decoder a million changed inputs. TARGET="bodies.chat sse.splitter" picks some, N=1000 fewer, SEED=2 others.
	$(BIN)/python -m tests.fuzz $(TARGET) $(if $(N),--inputs $(N)) $(if $(SEED),--seed $(SEED))

chaos: dev $(NODE_TESTS)               ## Kill, stop, cut and fill everything at any moment, and count what callers notice. ROW="kills redis" picks some, SEED=2 other chance.
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(ROW)

chaos-short: dev $(NODE_TESTS)           ## The same in its short form, every fault once.
	$(BIN)/python -m tests.chaos --short $(if $(SEED),--seed $(SEED)) $(ROW)

chaos-quick: dev $(NODE_TESTS)           ## The same in under a minute, for CI: some faults, which the seed draws.
	$(BIN)/python -m tests.chaos --quick $(if $(SEED),--seed $(SEED)) $(ROW)

chaos-nth: dev               ## Lose, double and delay each command that a call says to Redis, one at a time. ROW="claim park" picks some paths.
	$(BIN)/python -m tests.chaos.paths $(ROW)

soak: dev                    ## Let daemons work for half an hour, and look whether anything grows; draws docs/soak.png. MINUTES=5 is shorter.
	$(BIN)/python -m tests.soak $(if $(MINUTES),--minutes $(MINUTES))

screenshots: dev             ## Take pictures of the live page and of `headrace top`, into docs/screenshots/; needs chromium.
	$(BIN)/python -m tests.screenshots

questions: dev               ## Ask what operators ask, of two hosts in a storm, and write docs/operate/questions.md.
	$(BIN)/python -m tests.questions

page-cost: dev               ## Measure the live page: an event to the screen with 10,000 calls that wait, and what five open pages cost.
	$(BIN)/python -m tests.screenshots.cost

storm: dev                   ## Ride out a minute of 30 % 429 and 20 % 529.
	$(BIN)/pytest tests/process/test_ridden_out.py --long -s

haproxy: dev                 ## Restart two daemons twenty times under load, behind a HAProxy (apt install haproxy).
	$(BIN)/pytest tests/process/test_balancers.py -k haproxy --long -s

envoy: dev .venv-tools/installed   ## The same behind an Envoy.
	$(BIN)/pytest tests/process/test_balancers.py -k envoy --long -s

upgrade: dev                 ## Run an earlier commit beside this one on one Redis, each reading what the other made; needs the history.
	$(BIN)/pytest tests/packaged/test_two_versions.py --long

clients: client-typescript client-go   ## Check and test the clients in other languages.

$(NODE_MODULES): clients/typescript/package-lock.json
	$(NPM) ci --no-audit --no-fund

client-typescript: dev $(NODE_MODULES)   ## The client in TypeScript (Node 20).
	$(NPM) run generate:check
	$(NPM) run lint
	$(NPM) run build
	$(NPM) test

client-go: dev               ## The client in Go (1.26), and the SDKs over it.
	clients/go/generate.sh
	@test -z "$$(git status --porcelain -- clients/go/headracev1)" || { echo "clients/go/headracev1 is stale: run clients/go/generate.sh" >&2; exit 1; }
	@test -z "$$(gofmt -l clients/go)" || { gofmt -l clients/go; exit 1; }
	cd clients/go && go vet . ./internal/... && go test ./...
	cd clients/go/sdktest && go test ./...

endpoints: dev $(NODE_MODULES)   ## Perform every cell of the table in docs/endpoints.md, and write it.
	$(BIN)/python -m tests.comparison.table

.venv-others/installed: tests/others/constraints.txt
	$(PYTHON) -m venv .venv-others
	$(OTHERS)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(OTHERS)/uv pip install --quiet --python $(OTHERS)/python -r tests/others/constraints.txt
	@touch $@

others: dev .venv-others/installed   ## Run other people's software against the daemon, in an environment of its own.
	$(OTHERS)/python -m pytest -c tests/others/pytest.ini tests/others

others-pins: .venv-others/installed   ## Find out anew which versions of it go together.
	$(OTHERS)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate \
		--custom-compile-command "make others-pins" tests/others/requirements.txt -o tests/others/constraints.txt

pins: .venv-tools/installed  ## Find out anew which versions go together, and pin them by their hashes. UPGRADE=--upgrade takes newer ones.
	$(COMPILE) pyproject.toml pins/build.in -o constraints.txt
	$(COMPILE) --extra dev -c constraints.txt pyproject.toml pins/build.in -o pins/dev.txt
	$(COMPILE) --extra otel -c constraints.txt pyproject.toml -o pins/otel.txt
	$(COMPILE) pins/tools.in -o pins/tools.txt

sbom: .venv-tools/installed  ## Write what is installed with us, as a bill of materials (CycloneDX), to sbom.json.
	$(TOOLS)/cyclonedx-py requirements constraints.txt --pyproject pyproject.toml --output-reproducible -o sbom.json

# Programs in Go that make and check packages, and a collector of traces, at the versions that go.sum has the hashes of.
.venv-tools/installed-go: deploy/tools/go.mod deploy/tools/collector/go.mod .venv-tools/installed
	cd deploy/tools && GOBIN=$(CURDIR)/$(TOOLS) go install tool
	cd deploy/tools/collector && GOBIN=$(CURDIR)/$(TOOLS) go install .
	@touch $@

wheels: dev                  ## Build wheels and sdists of the daemon and of the client into dist/.
	$(BIN)/python -m deploy.release dist wheels

packages: dev .venv-tools/installed-go   ## Build deb and rpm into dist/.
	$(BIN)/python -m deploy.release dist packages

release: dev $(NODE_MODULES) .venv-tools/installed-go   ## Build all that a release has into dist/: wheels, npm package, deb, rpm, bill of materials, checksums.
	rm -rf dist
	$(BIN)/python -m deploy.release dist

packaged: dev $(NODE_TESTS) .venv-tools/installed-go   ## Build all that, install it into empty places, and use it there; check what runs beside it.
	$(BIN)/pytest --long tests/packaged

docs: .venv-tools/installed .venv/installed   ## Make the pages into a site, in site/; every link has to lead somewhere.
	$(BIN)/python -m deploy.site
	NO_MKDOCS_2_WARNING=1 $(TOOLS)/mkdocs build --quiet --strict

dashboard: dev               ## Write deploy/grafana/headrace.json from the table in deploy/dashboard.py.
	$(BIN)/python -m deploy.dashboard > deploy/grafana/headrace.json

man: dev                     ## Write deploy/man/headrace.1 from the commands.
	$(BIN)/python -m deploy.manual > deploy/man/headrace.1

third-parties: dev           ## Write THIRD-PARTY.md: whose work is installed with us, and under which licences.
	$(BIN)/python -m deploy.third_parties > THIRD-PARTY.md

large: dev                   ## Carry a gigabyte each way, and look at the daemon's memory.
	$(BIN)/pytest tests/process/test_large_bodies.py --long -s

figures: dev                 ## Measure crowds of equal calls, and /healthz while 29 MB arrive.
	$(BIN)/python -m tests.figures

hostile: dev                ## Attack the installed daemon in every known way, and print what others notice. ROW="packed rapid-reset" picks some.
	$(BIN)/python -m tests.hostile $(ROW)

hostile-short: dev          ## The same in its short form: what was reached must still be.
	$(BIN)/python -m tests.hostile --short $(ROW)

clean:                       ## Remove what was installed and cached.
	rm -rf .venv .venv-others .venv-tools dist site sbom.json clients/typescript/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
