# `make help` lists the targets. Everything runs from .venv, which holds exactly what requirements/*.txt pins.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# --no-deps and --no-build-isolation: the pins alone decide what is installed, also at build time.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
PINNED := $(INSTALL) --require-hashes --no-build-isolation

.DEFAULT_GOAL := help
.PHONY: help demo test lint pins pb2 schema bench soak clean

help: ## list the targets
	@grep -hE '^[a-z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9_-]+):.*## /  make \1\t/' | expand -t 16

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

pins: $(VENV)/.build ## compile requirements/*.txt again (needs uv on PATH)
	uv pip compile $(UV_FLAGS) --allow-unsafe requirements/build.in --output-file requirements/build.txt
	uv pip compile $(UV_FLAGS) pyproject.toml --output-file requirements/runtime.txt
	uv pip compile $(UV_FLAGS) --constraint requirements/runtime.txt --group dev pyproject.toml --output-file requirements/dev.txt
UV_FLAGS := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --override requirements/overrides.txt
