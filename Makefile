# make demo   environment, embedded study, dashboard        make test   environment and all tests
# make lint   format, lint, types, import contracts         make bench  the figures of docs/figures.md
# make house  the picture of the house, docs/house.svg      make torture  faults on purpose, docs/reliability.md
# make coverage  the tests, and the lines that none of them runs
.DEFAULT_GOAL := help
.PHONY: help env demo test lint format bench house torture coverage clean

# The first of these that runs and is a supported version; name another with make PYTHON=/path/to/python.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c '$(SUPPORTED)' >/dev/null 2>&1 && { command -v $$p; break; }; done)
BIN := .venv/bin
WORKERS ?= 2
PYTEST_ARGS ?=

help:
	@sed -n '1,4s/^# //p' Makefile

.venv/.complete: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 found. Install one, or run: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c '$(SUPPORTED)' || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13. Run: make PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

env: .venv/.complete  ## .venv with the project and its test tools

demo: env
	$(BIN)/tda demo

# Compiled sources are kept, whatever the environment says: tests start many processes, which read them.
test: env
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

coverage: env  ## the tests, and the lines that none of them runs; a third slower
	$(MAKE) test PYTEST_ARGS='--cov --cov-report=term:skip-covered $(PYTEST_ARGS)'

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

torture: env  ## kills, power cuts, damage, full disks, clock jumps; TDA_TORTURE_SHARE=0.1 for a tenth of it
	TDA_TORTURE=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:xdist tests/torture $(PYTEST_ARGS)

house:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) docs/draw_house.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage
