# make demo    the whole loop on real data, about a quarter of an hour on two cores
# make test    lint, types, tests; what CI runs
# make help    all targets

DEMO_SUITE   ?= embedded
DEMO_TARGET  ?= boolq
DEMO_NAME    ?= $(DEMO_TARGET)-fused
DEMO_ROWS    ?= 250
DEMO_EVAL    ?= 200
DEMO_EPOCHS  ?= 2
DEMO_SEEDS   ?= 3
DEMO_LENGTH  ?= 48
DEMO_LOWER   ?= 3
DEMO_ARMS    ?= target_adapter,fused,multitask_all
DEMO_HOME    ?= $(CURDIR)/build/demo

# The first interpreter that is new enough; name another with: make PYTHON=/path/to/python3 test
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format wheel-check build clean

help:
	@echo "make demo         train, rank, fuse, check and predict on real data (DEMO_ROWS=$(DEMO_ROWS), DEMO_SEEDS=$(DEMO_SEEDS))"
	@echo "make test         lint, types, tests"
	@echo "make test-slow    the tests that make test leaves out: commands killed at any moment, the wheel"
	@echo "make lint         ruff and mypy"
	@echo "make format       ruff format, and what ruff can mend"
	@echo "make wheel-check  build the wheel, install it elsewhere, run it"
	@echo "make build        wheel and source archive in dist/"
	@echo "make clean        remove what these targets made"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer; name one with: make PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch first: the other packages then find it and do not choose a version of their own
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt torch
	@touch $@

$(VENV)/.demo: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) install --quiet -c constraints.txt -e ".[adapterhub]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) install --quiet -c constraints.txt -e ".[adapterhub,dev]"
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	@PATH="$(CURDIR)/$(BIN):$$PATH" ADAPTMTL_HOME="$(DEMO_HOME)" bash demo/run.sh \
		"$(DEMO_SUITE)" "$(DEMO_TARGET)" "$(DEMO_NAME)" "$(DEMO_ROWS)" "$(DEMO_EVAL)" "$(DEMO_EPOCHS)" "$(DEMO_SEEDS)" \
		"$(DEMO_LENGTH)" "$(DEMO_LOWER)" "$(DEMO_ARMS)"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

wheel-check: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests/cli/test_wheel.py

build: $(VENV)/.dev
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
