# Two commands are all a newcomer needs: `make lab` and `make test`. Everything else serves those two.
# Plain GNU make 3.81 and POSIX sh: what macOS has.

PYTHON  ?= python3
WORKERS ?= 2
BIN     := .venv/bin

# Two processes on two cores are quicker than one whose threads wait for each other, and every test is seeded anyway.
PYTEST  := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --durations=15 --durations-min=1
# A fixed seed for sets and hashes: the test processes must agree on the order of the tests they share.
export PYTHONHASHSEED = 0

.DEFAULT_GOAL := help
.PHONY: help lab setup check test lessons lint types quick unit kernels current notebooks browser

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

# ------------------------------------------------------------------------------------------------------------ set-up

# An environment is a file that remembers what it was made from: nothing is installed twice.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "minideepseek needs Python 3.11 or newer, and $(PYTHON) is not. Try: make PYTHON=python3.12 lab"; exit 2; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "could not create .venv; on Debian and Ubuntu this helps: apt install python3-venv"; exit 2; }

# The first time there are gigabytes to fetch, and whoever sits there sees pip do it; later there is little to say.
define install
	@echo "Installing minideepseek[$(1)] into .venv (PyTorch is most of it; a few minutes the first time)"
	@quiet=--quiet; if [ -t 1 ] && [ ! -e .venv/.course ]; then quiet=; fi; \
	$(BIN)/python -m pip install --disable-pip-version-check $$quiet -e ".[$(1)]"
endef

.venv/.course: pyproject.toml | $(BIN)/python
	$(call install,course)
	@touch $@

.venv/.dev: pyproject.toml | $(BIN)/python
	$(call install,dev)
	@touch .venv/.course $@

setup: .venv/.dev ## create .venv with everything a developer needs

lab: .venv/.course ## set up, and open JupyterLab on the first lesson
	@$(BIN)/minideepseek lessons open

# -------------------------------------------------------------------------------------------------------- everything

# Every part runs, also when one before it failed: one run says all there is to mend. Then a line for each, and the
# exit status of the whole.
define run_parts
	@trap 'exit 130' INT; failed=0; summary=; \
	for part in $(1); do \
	  printf '\n==> make %s\n' $$part; began=$$(date +%s); \
	  if $(MAKE) --no-print-directory $$part; then word=ok; else word=FAILED; failed=1; fi; \
	  summary="$$summary$$(printf '%-10s %-6s %5d s' $$part $$word $$(($$(date +%s) - began)))|"; \
	done; \
	printf '\n'; printf '%s' "$$summary" | tr '|' '\n'; exit $$failed
endef

test: setup ## set up, and prove everything: style, types, tests, kernels, lessons, a browser
	$(call run_parts,lint types unit kernels current notebooks browser)

check: setup ## the few minutes of `make test` for daily use
	$(call run_parts,lint types quick kernels current)

lessons: setup ## run the lessons whose script or interfaces changed, and write their notebooks
	@$(BIN)/minideepseek lessons build

# ------------------------------------------------------------------------------------------------------------- parts

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

unit: setup ## all tests of the package but those of the kernels and the browser
	@$(PYTEST) --ignore=tests/kernels -m "not browser"

quick: setup ## the same without the slow ones
	@$(PYTEST) --ignore=tests/kernels -m "not browser and not slow"

# In a process of its own: Triton decides when it is imported whether it interprets.
kernels: setup ## the Triton kernels, in the interpreter
	@TRITON_INTERPRET=1 $(PYTEST) tests/kernels

current: setup ## are the lessons' notebooks what their scripts give today?
	@$(BIN)/minideepseek lessons check

notebooks: setup ## run every lesson again
	@$(PYTEST) --nbval-lax --nbval-current-env --nbval-cell-timeout=300 --timeout=360 notebooks

browser: setup ## open a lesson in JupyterLab, in a browser, and move a slider
	@OMP_NUM_THREADS=1 $(BIN)/pytest tests/test_browser.py
