# make demo | test | lint | bench | web | venv | clean        PYTHON=python3.12 picks the interpreter
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

# Nothing is written outside this folder, so that an empty or closed HOME is no obstacle.
export MPLCONFIGDIR ?= $(CURDIR)/$(VENV)/matplotlib
ifeq ($(strip $(HOME)),)
export PIP_NO_CACHE_DIR := 1
endif

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint bench web clean

help:
	@echo "make demo    track the lesions of the bundled example: table, report, pictures in demo/"
	@echo "make test    lint, types, tests and doctests"
	@echo "make lint    ruff and mypy only"
	@echo "make bench   speed ratios of the inference path, as JSON"
	@echo "make web     the three-plane view of tlt review (NiiVue); needs Node 20"
	@echo "make clean   remove $(VENV), demo/ and caches"

venv: $(STAMP)

# torch goes first: asked for together with the rest, another build of it may be chosen.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is older than Python 3.10; set PYTHON to a newer one" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "no venv module for $(PYTHON); install it (Debian: python3-venv)" >&2; exit 1; }
	@echo "installing into $(VENV) (some minutes the first time)"
	@$(PIP) install torch==2.13.0
	@$(PIP) install -c constraints.txt -e '.[test]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/tlt demo --output demo

# One thread a test process: two processes with two threads each wait for each other on two cores.
test: lint
	@echo "tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests
	@echo "doctests"
	@$(BIN)/python -m pytest --doctest-modules src/tlt

lint: $(STAMP)
	@echo "lint and types"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || \
		{ echo "not formatted: run $(BIN)/ruff format" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary

bench: $(STAMP)
	@$(BIN)/python benchmarks/speed.py

# A product that the wheel carries and git does not; without it the review page does all but 3D.
web:
	@command -v npm >/dev/null || { echo "make web needs Node 20 with npm; without it tlt review" \
		"works too, without its 3D view" >&2; exit 1; }
	@cd web && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && npm run --silent build

clean:
	@rm -rf $(VENV) demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
