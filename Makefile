# SPDX-License-Identifier: Apache-2.0
# Every target makes the environment that it needs. `make PYTHON=python3.12 test` chooses the Python that it is made of.
PYTHON ?= python3
PIP_FLAGS := --quiet --disable-pip-version-check
BUILD_TOOLS := setuptools cmake ninja pybind11

# Processes that share the tests; each takes about a gigabyte.
WORKERS ?= -n 2 --dist worksteal

BIN := .venv/bin
ENV := .venv/.made
OLDEST := .venv-oldest/bin
OLDEST_ENV := .venv-oldest/.made

NATIVE := setup.py CMakeLists.txt $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/include/rsuper/*.h)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo test test-fast test-gpu test-gpu-dry test-oldest test-sanitize test-wheel lint format readme \
	bench bench-gpu reports experiment step cost curves clean cuda

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

env: $(ENV) ## create .venv, or bring it up to date

demo: $(ENV) ## learn tumours in a real CT from report sentences; writes runs/demo
	@$(BIN)/rsuper demo --out runs/demo

test: $(ENV) ## run all tests; those for a GPU run on a fake one where there is none
	@RSUPER_FAKE_GPU=1 $(BIN)/pytest -q $(WORKERS)

test-fast: $(ENV) ## run all tests but the slow ones
	@$(BIN)/pytest -q -m "not slow" $(WORKERS)

test-gpu: $(ENV) cuda ## run the tests that need a CUDA device
	@TRITON_INTERPRET=0 $(BIN)/pytest -q tests/gpu

test-gpu-dry: $(ENV) ## run the tests and benchmarks for a CUDA device on a fake one
	@RSUPER_FAKE_GPU=1 $(BIN)/pytest -q tests/fake_gpu tests/gpu

test-oldest: $(OLDEST_ENV) ## run the tests of rsuper_kernels with the oldest torch that it supports
	@$(OLDEST)/pytest -q -m "not slow" --ignore=tests/train --ignore=tests/fake_gpu

test-sanitize: $(ENV) ## run the tests of the C++ code with the address and undefined-behaviour sanitizers
	@.ci/test-sanitize

test-wheel: $(ENV) ## build sdist and wheel, and try them in an empty environment, with a compiler and without
	@PYTHON="$(PYTHON)" .ci/test-wheel

lint: $(ENV) ## check style and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/python -m docs.render --check

format: $(ENV) ## put the code in order
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format

readme: $(ENV) ## render the tables of README and docs, and take over the last demo's figures
	@test ! -f runs/demo/metrics.json || cp runs/demo/metrics.json docs/demo.json
	@test ! -f runs/demo/demo.png || cp runs/demo/demo.png docs/demo.png
	@$(BIN)/python -m docs.render

bench: $(ENV) ## run the benchmarks; prints the figures, writes benchmarks/results/figures.json
	@$(BIN)/pytest benchmarks/ --ignore=benchmarks/gpu --benchmark-only --benchmark-columns=median,iqr,rounds \
		--benchmark-max-time=0.5

reports: $(ENV) ## measure how well and how fast the rules read reports; writes benchmarks/results/reports.json
	@$(BIN)/python -m benchmarks.reports

experiment: $(ENV) ## train on masks, masks and reports, reports alone; writes benchmarks/results/experiment.json
	@$(BIN)/python -m benchmarks.experiment

step: $(ENV) ## measure what losses and data cost of a training step; writes benchmarks/results/training.json
	@$(BIN)/python -m benchmarks.training

cost: $(ENV) ## count launches, syncs and bytes on a GPU; writes benchmarks/results/gpu/cost.json and cost.md
	@$(BIN)/python -m benchmarks.gpu.cost

curves: $(ENV) ## measure cost curves; writes benchmarks/results/cpu_curves.csv and .png
	@$(BIN)/python -m benchmarks.curves

bench-gpu: $(ENV) cuda ## run the benchmarks that need a CUDA device
	@TRITON_INTERPRET=0 $(BIN)/pytest benchmarks/gpu --benchmark-only --benchmark-columns=median,iqr,rounds

clean: ## remove the environments, builds and caches
	rm -rf .venv .venv-oldest build dist *.egg-info python/*.egg-info rsuper_kernels/_C*.so rsuper_kernels/kernels
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

cuda: $(ENV)
	@$(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || { echo "no CUDA device"; exit 2; }

$(ENV): pyproject.toml constraints.txt $(NATIVE)
	@PYTHON="$(PYTHON)" sh .ci/prepare-python
	@echo "making .venv (the first time takes some minutes: torch is large)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt $(BUILD_TOOLS)
	@$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt --no-build-isolation -e ".[dev]"
	@$(BIN)/python -c "from rsuper_kernels import native; print('.venv is ready;', native.available()[1])"
	@touch $@

$(OLDEST_ENV): pyproject.toml constraints.txt $(NATIVE)
	@PYTHON="$(PYTHON)" sh .ci/prepare-python
	@echo "making .venv-oldest"
	@test -x $(OLDEST)/python || $(PYTHON) -m venv .venv-oldest
	@grep -Ev '^(torch|numpy)==' constraints.txt > .venv-oldest/constraints.txt
	@$(OLDEST)/pip install $(PIP_FLAGS) -c .venv-oldest/constraints.txt $(BUILD_TOOLS) torch==2.6.0 \
		'numpy==1.26.4; python_version < "3.13"' scipy pyyaml expecttest hypothesis pytest
	@$(OLDEST)/pip install $(PIP_FLAGS) --no-build-isolation --no-deps -e .
	@touch $@
