# Two commands for a newcomer: `make demo` and `make test`. Both make a virtual environment of their own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Bytecode is compiled at first import, and only for what is imported: a third less to wait for.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: help demo test check nightly lint style types fast bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     four real hospitals train a heart-disease model together (a few minutes, most of it installing)"
	@echo "make test     the tests"
	@echo "make check    lint, types and the tests marked fast: what to run before every commit, under a minute"
	@echo "make nightly  the tests that take many minutes: the whole install in an empty environment"
	@echo "make lint     ruff and mypy"
	@echo "make bench    seconds and bytes a round, for 4, 16 and 64 sites"
	@echo "make clean    forget environment and results; records that were added stay"

$(BIN)/fedmed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	@echo "Making a virtual environment in $(VENV) (several minutes without a package cache) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.test: $(BIN)/fedmed
	@$(INSTALL) -e '.[test]'
	@touch $@

demo: $(BIN)/fedmed
	@PATH="$(CURDIR)/$(BIN):$$PATH" fedmed run
	@echo
	@echo "Look:  . $(BIN)/activate && fedmed ui"

test: $(VENV)/.test
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest -q

check: $(VENV)/.test
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target style types fast

fast: $(VENV)/.test
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest -q -m fast tests

nightly: $(VENV)/.test
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest -q -m nightly tests

lint: style types

style: $(VENV)/.test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.test
	@$(BIN)/mypy

bench: $(VENV)/.test
	@$(BIN)/python benchmarks/rounds.py

clean:
	rm -rf $(VENV) coordinator .prefect dvc.lock sites/*/partition sites/*/contract sites/*/models sites/*/logs
