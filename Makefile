# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs in .venv, once.
# Another Python: make test PYTHON=/path/to/python3.11

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast format wheel lock clean

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
BIN := .venv/bin
READY := .venv/ready
LOCKS := requirements.lock requirements-dev.lock
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
RESOLVE := $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## .venv with exactly what the locks name, and this checkout

demo: $(READY) ## hospitals train one model on this machine; ends with a table and says where the report is
	$(BIN)/bioface simulate

test: $(READY) ## style, types and every test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/python -m pytest

test-fast: $(READY) ## the tests that take no more than a second or two
	$(BIN)/python -m pytest -m "not slow"

format: $(READY) ## lay the code out, and mend what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: $(READY) ## dist/bioface_federated-*.whl
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation

# One platform, the one that is tested; the first line of a lock names it. The tools have a lock of their own, so that a
# hospital installs none of them; it holds all extras. They come in by standard input because uv cannot resolve an extra
# by itself.
lock: $(READY) ## resolve both locks again, to the newest versions that the ranges allow
	{ echo '# What runs: CPython 3.11 on Linux x86-64 with glibc 2.28 or later. Made by `make lock`, not by hand.'; \
	  $(RESOLVE) pyproject.toml; } > .venv/runs.lock
	{ echo '# Tools to work on it: CPython 3.11 on Linux x86-64 with glibc 2.28 or later. Made by `make lock`, not by hand.'; \
	  $(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*sum(project["optional-dependencies"].values(), []), sep="\n")' | \
	  $(RESOLVE) --constraint .venv/runs.lock -; } > .venv/tools.lock
	mv .venv/runs.lock requirements.lock
	mv .venv/tools.lock requirements-dev.lock

clean: ## remove .venv, caches and built wheels; runs/ stays
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): $(LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo \
	  "make: $(PYTHON) is not Python 3.11, which the lock is for: install it, or name it: PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo \
	  "make: $(PYTHON) cannot make virtual environments: install its venv module (Debian: python3.11-venv)" >&2; exit 1; }
	@echo "Setting up .venv: about 6 GB and a few minutes, once."
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes $(addprefix --requirement ,$(LOCKS))
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
