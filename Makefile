# make demo   environment, embedded study, dashboard        make test   environment and all tests
# make lint   format, lint, types, import contracts         make bench  the ratios quoted in the README
.DEFAULT_GOAL := help
.PHONY: help env demo test lint format bench clean

PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,$(shell command -v $(p) 2>/dev/null)))
BIN := .venv/bin
WORKERS ?= 2
PYTEST_ARGS ?=

help:
	@sed -n '1,2s/^# //p' Makefile

.venv/.complete: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python found. Install Python 3.11, 3.12 or 3.13 (or run: make PYTHON=/path/to/python)."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1). Python 3.11, 3.12 or 3.13 is needed (or run: make PYTHON=/path/to/python)."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

env: .venv/.complete  ## .venv with the project and its test tools

demo: env
	$(BIN)/tda demo

test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage
