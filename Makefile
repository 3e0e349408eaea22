# make demo   the main job: a virtual environment, the package, four methods side by side, a report in results/demo
# make test   the same environment, and the tests
# make lint   style (ruff) and types (pyright)
# make bench  the benchmarks that take minutes, about an hour together, and their page results/benchmarks/index.html
#             (make bench BENCH="derivatives steps" for these alone)
# make clean  remove the environment and the caches, never results/
#
# Another interpreter or place:  make test PYTHON=python3.12 VENV=/somewhere/env

PYTHON ?= python3
VENV ?= .venv
BENCH ?=
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet -c constraints.txt

.DELETE_ON_ERROR:
.PHONY: help demo test lint bench clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

demo: $(VENV)/package.stamp
	$(BIN)/pinn-lora run configs/demo.toml

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

# All three are run, so that one look shows everything there is to mend.
lint: $(VENV)/dev.stamp
	@status=0; \
	for check in "ruff check ." "ruff format --check ." "pyright --pythonpath $(BIN)/python"; do \
		echo "$$check"; $(BIN)/$$check || status=1; \
	done; \
	exit $$status

bench: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/run.py $(BENCH)

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is made once, and installed into again only when what it needs has changed.
$(VENV)/package.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing pinn-lora into $(VENV) (a minute or two)"
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing pinn-lora and its development tools into $(VENV) (a minute or two)"
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/package.stamp

$(VENV)/bench.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing pinn-lora and what its benchmarks compare it with into $(VENV) (a minute or two)"
	$(PIP_INSTALL) -e '.[bench]'
	@touch $@ $(VENV)/package.stamp

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
