# setup: the product; check: lint, types, layers; test: the default suite; demo: the whole journey on synthetic scans;
# bench: side by side with other frameworks on this CPU (PEERS names a folder that holds them); bench-evaluation: how
# far intervals, gate and curves can be trusted (a day of two cores); bench-gpu: on a CUDA device
PYTHON ?= python3
PEERS ?= peers
BIN := .venv/bin
BENCH := PYTHONPATH=$(PEERS) MAE_PATH=$(PEERS)/mae $(BIN)/python tests/benchmarks

.PHONY: setup check test test-slow demo peers bench bench-evaluation bench-gpu clean

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

# LightlySSL (MIT) is only timed, never imported by the product; facebookresearch/mae (CC-BY-NC) belongs in $(PEERS)/mae
peers: .venv/developer
	$(BIN)/python -m pip install --quiet --no-deps --target $(PEERS) lightly lightly-utils einops dcm2niix dicom2nifti SimpleITK itk itk-core itk-io itk-numerics itk-filtering itk-registration itk-segmentation

bench: .venv/developer
	$(BENCH)/bench_mae.py --model S16 Ti8 --precision fp32 bf16
	$(BENCH)/bench_dino.py --peer $(PEERS)
	$(BENCH)/bench_loader.py
	$(BENCH)/bench_scoring.py
	$(BENCH)/bench_ingest.py
	$(BENCH)/bench_index.py

bench-evaluation: .venv/developer
	$(BENCH)/bench_intervals.py
	$(BENCH)/bench_intervals.py --patients 300 --prevalence 0.0167
	$(BENCH)/bench_gate_errors.py
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/bench_audits.py
	$(BENCH)/bench_gate.py --out bench/gate
	$(BENCH)/bench_label_efficiency.py --out bench/curves

bench-gpu: .venv/developer
	$(BENCH)/bench_mae.py --device cuda --precision bf16 --model B16 L16 3d-B96 --compile
	$(BENCH)/bench_dino.py --peer $(PEERS) --device cuda
	$(BENCH)/bench_feed.py --device cuda --model B16 L16 3d-B96 --workers $$(($$(nproc) - 2)) --compile

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
