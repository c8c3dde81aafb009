# `make demo` and `make test` do all their own set-up: everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Most tests wait for a process or for Postgres: three at once keep two cores busy.
TESTS_AT_ONCE ?= 3
POOLER_TESTS ?= tests/queue tests/worker
PYTEST := $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist worksteal

.PHONY: help install demo test test-15 test-pooler torture test-fast lint format lock system-packages clean

help:              ## Show the targets
	@grep -E '^[a-z-]+: .*##|^[a-z-]+:  *##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

install: $(VENV)/.installed  ## Make .venv with the locked dependencies and the package itself

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "StarForge needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked dependencies into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install      ## Start everything, process 200 snapshots and leave the server running
	@$(BIN)/starforge demo

test: install      ## Lint, types, imports and every test that this machine can run
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy
	@$(PYTEST)

test-15: install   ## The database tests once more, on Debian's Postgres 15
	@STARFORGE_TEST_POSTGRES=15 $(PYTEST) -m "db and not once" --ignore=tests/db/test_embedded.py

test-pooler: install ## The queue's and the worker's tests through PgBouncer in transaction mode
	@STARFORGE_TEST_POOLER=1 $(PYTEST) -m db $(POOLER_TESTS)

torture: install   ## Kill, freeze and choke workers and Postgres for minutes: STARFORGE_TORTURE_MINUTES=10
	@STARFORGE_TORTURE=1 $(BIN)/python -m pytest -s tests/torture tests/faults/test_backfills.py \
	  tests/faults/test_operations.py tests/faults/test_snapshots.py

test-fast: install ## The tests that need no database and no other server
	@$(PYTEST) -m "not db and not server and not long"

lint: install      ## Lint, formatting, imports and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/mypy

format: install    ## Rewrite the sources in the house's format
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock:              ## Pin every dependency again (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --group dev --all-extras pyproject.toml --output-file requirements.lock

system-packages:   ## Install the Debian packages that some tests need (as root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	  postgresql chromium prometheus pgbouncer redis-server faketime curl

clean:             ## Remove .venv and the caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
