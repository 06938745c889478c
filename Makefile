# Every target sets up what it needs in .venv; python3 may be any Python from 3.10 on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup benchmark test docs fuzz mutants lint clean

setup: $(VENV)/run.stamp  ## .venv, to run the scripts on your own data

benchmark: $(VENV)/run.stamp  ## train and score the default grid between floor and ceiling
	$(BIN)/python scripts/benchmark.py --config configs/default.yaml

test: $(VENV)/test.stamp  ## every check that must hold, the same way every time; mypy is among the slow tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal -m slow tests

docs: $(VENV)/docs.stamp  ## the documentation, into site/: open site/index.html
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

fuzz: $(VENV)/test.stamp  ## random examples, other ones at every run, for maintainers
	IRRBENCH_HYPOTHESIS=fuzz $(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow"

mutants: $(VENV)/mutants.stamp  ## small changes of the code that tests should notice, for maintainers: takes hours
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2 $(if $(OF),"$(OF)")
	$(BIN)/mutmut results | sed '/not checked/d'

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) mutants site

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("irrbench needs Python 3.10 or newer; set PYTHON=...") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[lidc]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/run.stamp

$(VENV)/docs.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/run.stamp

$(VENV)/mutants.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[mutants]'
	@touch $@ $(VENV)/test.stamp $(VENV)/run.stamp
