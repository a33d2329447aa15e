# What is done every day: `make` lists it. Environments and builds are those of CONTRIBUTING.md.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help env build debug test quick slow lint types docs links bench instructions

help:                           # this list
	@grep -E '^[a-z]+:.*#' $(MAKEFILE_LIST) | sed 's/:[^#]*# */\t/' | expand -t 16

env:                            # an environment with all that tests and builds need
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -U "setuptools>=77" "cython>=3.3,<4"
	$(BIN)/pip install --no-build-isolation -e ".[test]"

build:                          # compile what has changed
	$(BIN)/python setup.py -q build_ext --inplace

debug:                          # compile all without optimisation, with debug information and checks
	CACHEBOX_DEBUG=1 $(BIN)/python setup.py -q build_ext --inplace --force

test:                           # all tests but the slow ones
	$(BIN)/pytest -n 3

quick:                          # the inner loop: the cache alone, without servers and processes
	$(BIN)/pytest -q -n 2 tests/cache/test_cache_*.py tests/cache/test_state_machine.py tests/calls/test_cached.py tests/engine/test_policies.py

slow:                           # the tests that take minutes
	$(BIN)/pytest -n 3 -m slow

lint:                           # every linter
	.ci/run lint

types:                          # mypy, pyright, stubtest; after `.ci/run build`
	.ci/run types

docs:                           # the site, in build/site; a warning is an error
	$(BIN)/pip install -q "sphinx>=8.1" "furo>=2025.7" "myst-parser>=4"
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/site

links:                          # do the links of the site lead somewhere? needs a network
	$(BIN)/python -m sphinx -q -b linkcheck -d build/doctrees docs build/links

bench:                          # every benchmark, with tables
	$(BIN)/pip install -q ".[bench]"
	$(BIN)/pytest bench

instructions:                   # of the hottest paths, beside the committed figures; needs valgrind
	$(BIN)/python -m bench.instructions check
