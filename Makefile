# Two commands are all a newcomer needs: `make lab` and `make test`. Everything else serves those two.
PYTHON ?= python3
BIN    := .venv/bin
export PYTHONHASHSEED ?= 0

.DEFAULT_GOAL := help
.PHONY: help lab setup check test lint types unit lessons lessons-build browser clean

help:            ## show this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

# An environment is a file that remembers what it was made from: nothing is installed twice.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "minideepseek needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 lab"; exit 2; }
	@$(PYTHON) -m venv .venv || { echo "could not create .venv: on Debian or Ubuntu run 'apt install python3-venv'"; exit 2; }

.venv/.course: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[course]"
	@touch $@

.venv/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@ .venv/.course

setup: .venv/.dev ## create .venv with everything a developer needs

lab: .venv/.course ## set up and open JupyterLab on the first lesson
	@$(BIN)/minideepseek lessons open
