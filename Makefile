# Every target sets up what it needs. PYTHON may name another interpreter (>= 3.11).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: run test lint bench chaos clean
.DEFAULT_GOAL := run

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than Python 3.11; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

run: $(READY)  ## the census of the standard library's source code, with a worker killed on the way
	$(BIN)/python docs/examples/census.py

test: $(READY)  ## every test, the short chaos tests included
	$(BIN)/python -m pytest -m 'not long'

lint: $(READY)  ## ruff, mypy --strict, and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## throughput and memory, printed as ratios
	$(BIN)/python tests/benchmarks/line.py

chaos: $(READY)  ## the long chaos runs
	$(BIN)/python -m pytest -m chaos --timeout 3600

clean:
	rm -rf $(VENV) .consecution build dist
