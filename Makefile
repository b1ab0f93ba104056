# `make help` lists the targets. Everything runs from .venv, which holds exactly what requirements/*.txt pins.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# --no-deps and --no-build-isolation: the pins alone decide what is installed, also at build time.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
PINNED := $(INSTALL) --require-hashes --no-build-isolation

.DEFAULT_GOAL := help
.PHONY: help demo test check check-tests soak lint pins pb2 schema bench clean

help: ## list the targets
	@grep -hE '^[a-z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9_-]+):.*## /  make \1\t/' | expand -t 18

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.build: requirements/build.txt | $(BIN)/python
	$(INSTALL) --require-hashes -r requirements/build.txt
	@touch $@

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml $(VENV)/.build
	$(PINNED) -r requirements/runtime.txt
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	$(PINNED) -r requirements/dev.txt
	@touch $@

demo: $(VENV)/.runtime ## play a morning with a simulated Lark, the daemon and an agent (KEEP=1 leaves it running)
	$(BIN)/gateway demo $(if $(KEEP),--keep,--once)

# Tests wait for servers and processes as well as they compute: two workers are the least that pays.
WORKERS ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores > 2 ? cores : 2)))
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test: $(VENV)/.dev ## run every test (WORKERS=n, PYTEST_ARGS=…)
	$(PYTEST) --cov --cov-report= $(PYTEST_ARGS)
	$(BIN)/python -m coverage report --skip-covered --skip-empty --sort=cover | tail -n 15

# Beside the folders without I/O: the conformance suites of the stores, against those in memory.
QUICK := tests/unit tests/protocol tests/tidy tests/simulation/test_inbound_claims.py tests/simulation/test_lease_store.py
check: $(VENV)/.dev ## run what needs no server, and lint, in under a minute
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint check-tests

check-tests: $(VENV)/.dev
	$(PYTEST) -q $(QUICK)

SEEDS ?= 10000
soak: $(VENV)/.dev ## let ten thousand storms pass over the outbox (SEEDS=n)
	OUTBOX_SEEDS=$(SEEDS) $(BIN)/python -m pytest -q tests/simulation/test_outbox_chaos.py tests/simulation/test_lark_chaos.py

lint: $(VENV)/.dev ## ruff, mypy strict, and the arrows between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## measure beside the official SDKs on this machine; writes bench/RESULTS.md
	$(BIN)/python -m bench

pb2: $(VENV)/.dev ## generate the protobuf module again from protocol/pbbp2.proto
	$(BIN)/python -m grpc_tools.protoc --proto_path=protocol --python_out=src/gateway/lark/wire \
	  --pyi_out=src/gateway/lark/wire protocol/pbbp2.proto

schema: $(VENV)/.dev ## write schema.sql again from the chain of migrations
	$(BIN)/python tests/migration/dump_schema.py

UV_FLAGS := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
            --override requirements/overrides.txt
pins: $(VENV)/.build ## compile requirements/*.txt again (needs uv on PATH)
	uv pip compile $(UV_FLAGS) --allow-unsafe requirements/build.in --output-file requirements/build.txt
	uv pip compile $(UV_FLAGS) pyproject.toml --output-file requirements/runtime.txt
	uv pip compile $(UV_FLAGS) --constraint requirements/runtime.txt --group dev pyproject.toml \
	  --output-file requirements/dev.txt

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
