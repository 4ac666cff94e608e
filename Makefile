# Every target sets up what it needs. PYTHON may name another interpreter (>= 3.11).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Tests that run side by side; most of them wait for processes, so there are more than cores.
JOBS   ?= $(shell echo $$(( $$(nproc) + 1 )))
READY  := $(VENV)/.ready

# What tests need beside Python's packages; without it the tests of the stores kyoto and redis are skipped.
NEED    = $(if $(shell command -v redis-server),,redis-server) $(if $(wildcard /usr/lib/*/libkyotocabinet.so.16),,python3-kyotocabinet)

.PHONY: run test lint bench chaos clean servers
.DEFAULT_GOAL := run

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than Python 3.11; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

run: $(READY)  ## the census of the standard library's source code, with a worker killed on the way
	$(BIN)/python docs/examples/census.py

# RUNLEVEL: Debian would start a server of its own.
servers:
ifneq ($(strip $(NEED)),)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(NEED) >/dev/null; \
	else \
	    echo "make: some tests are skipped; for all of them: sudo RUNLEVEL=1 apt-get install $(strip $(NEED))" >&2; \
	fi
endif

test: $(READY) servers  ## every test, the short chaos tests included
	$(BIN)/python -m pytest -m 'not long' -n $(JOBS) --dist worksteal

lint: $(READY)  ## ruff, mypy --strict, and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## throughput and memory, printed as ratios
	$(BIN)/python tests/benchmarks/line.py
	$(BIN)/python tests/benchmarks/inputs.py
	$(BIN)/python tests/benchmarks/fanout.py

# CHAOS_SCALE=0.1 makes every row so much smaller. `python -m tests.chaos.table` puts the table into docs/guarantees.md.
chaos: $(READY) servers  ## the chaos rows in full, and their table: nearly an hour
	rm -rf build/chaos
	$(BIN)/python -m pytest -m long --timeout 3600 -o faulthandler_timeout=1800; code=$$?; \
	    $(BIN)/python -m tests.chaos.table --print && exit $$code

clean:
	rm -rf $(VENV) .consecution build dist
