# setup: the product; check: lint, types, layers; test: the default suite; demo: the whole journey on synthetic scans;
# bench: side by side with other frameworks on this CPU (PEERS names a folder that holds them); bench-gpu: on a CUDA device
PYTHON ?= python3
PEERS ?= peers
BIN := .venv/bin
BENCH := PYTHONPATH=$(PEERS) $(BIN)/python tests/benchmarks

.PHONY: setup check test test-slow demo peers bench bench-gpu clean

setup: .venv/product
demo: .venv/product
	$(BIN)/medssl demo --out demo

check: .venv/developer
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: .venv/developer
	$(BIN)/python -m pytest

test-slow: .venv/developer
	$(BIN)/python -m pytest -m slow

.venv/product: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medssl needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/developer: .venv/product
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv demo build dist *.egg-info
