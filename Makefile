# Every target does its own set-up: a private .venv with the exact versions of constraints.txt.
# Needs Python 3.11 or newer and a package index; another interpreter: make PYTHON=python3.12 demo
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two at a time, each module in one process: its tests share what takes long to make.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile

# Ray starts dozens of processes. Where the environment forbids Python to keep what it compiled, each of them would
# compile torch, Ray and MLflow anew: seconds every time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-faults check format schema clean

help:  ## say what each target does
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1: \2/p' Makefile

install: $(STAMP)  ## only the set-up

# torch comes through uv: it picks the wheel that the index marks as fit for this machine.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Rayfall needs Python 3.11 or newer, and \
	$$($(PYTHON) --version 2>&1 || echo nothing) is what '$(PYTHON)' gives; name another with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; a few minutes when nothing is cached)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -b constraints.txt -c constraints.txt \
		-e '.[dev,compare,teams]'
	@touch $@

demo: $(STAMP)  ## the whole experiment on drawn images, from nothing to a report
	$(BIN)/rayfall run jobs/experiments/demo.yaml

test: $(STAMP)  ## lint, types and all tests but the slow ones
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow"

test-slow: $(STAMP)  ## the tests that take minutes
	$(PYTEST) -m slow

test-faults: $(STAMP)  ## the whole fault matrix: everything that goes wrong, many times over (an hour on two cores)
	$(PYTEST) -m faults --fault-repeats 300 --timeout 3000 --fault-figures outputs/faults.json

check: $(STAMP)  ## lint, formatting and types, no tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## format the source
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(STAMP)  ## write docs/experiment.schema.json anew after a change of the experiment's settings
	$(BIN)/rayfall schema > docs/experiment.schema.json.new
	mv docs/experiment.schema.json.new docs/experiment.schema.json

clean:  ## remove the set-up and caches; results (rayfall-store) stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find stages pipeline jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +
