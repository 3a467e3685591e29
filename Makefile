# The commands of the README. `make demo` and `make test` need nothing but Python >= 3.10 and make.
PYTHON ?= python3
PYTEST_ARGS ?=
SOAK_ARGS ?=
BENCH_ARGS ?=
VERSIONS_ARGS ?=

# In percent, of lines and branches of the core. Only the whole suite is held to it.
MIN_COVERAGE := 95

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := $(wildcard ray_pipeline_core airflow_provider prefect_integration tests examples benchmarks docs/tools)

# The tests start thousands of processes, each of which would compile the packages.
unexport PYTHONDONTWRITEBYTECODE

# No target phones home.
export RAY_USAGE_STATS_ENABLED := 0
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help setup hooks demo check docs format test test-airflow browser database test-versions chaos soak bench bench-full constraints clean

help:
	@echo "make demo         run the nightly flights example on a local Ray cluster"
	@echo "make test         run every test and measure coverage (PYTEST_ARGS=... goes to pytest)"
	@echo "make test-airflow  run the tests that kill and restart a real Airflow and clusters under its tasks"
	@echo "make test-versions  some tests with the oldest and newest Ray, Airflow, Prefect and Python that are supported"
	@echo "                  (VERSIONS_ARGS='--only lowest newest' takes some environments, '--docs docs' writes the table)"
	@echo "make chaos        only those tests that kill workers, nodes and drivers under running pipelines"
	@echo "make soak         kill workers and nodes at random, with ten seeds (SOAK_ARGS='--seeds 1 2' takes others)"
	@echo "make check        lint, format, types, import contracts"
	@echo "make bench        compare with datatrove's executor and bare Ray (BENCH_ARGS='overhead' measures that alone)"
	@echo "make bench-full   the same in full sizes, for docs/performance.md"
	@echo "make format       put the code into the form that make check asks for"
	@echo "make docs         write docs/errors.md and the tables of modules in docs/architecture.md"
	@echo "make setup        only create or renew the environment in $(VENV)"
	@echo "make hooks        let git run the checks of .pre-commit-config.yaml before each commit"
	@echo "make constraints  pin the development environment anew (UPGRADE=--upgrade takes newer versions)"
	@echo "make clean        remove what the tools left behind; the environment stays"

setup: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$(PYTHON) is missing or older than Python 3.10; name another one: make setup PYTHON=python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { \
		rm -rf $(VENV); \
		echo "$(PYTHON) can't create virtual environments (Debian and Ubuntu: install python3-venv);" \
			"name another Python: make setup PYTHON=python3.12" >&2; \
		exit 1; }

# uv installs in seconds what takes pip minutes; where uv can't be had, pip does it.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the development environment into $(VENV) ..."
	@if $(BIN)/python -m pip install -qq --constraint constraints.txt uv; then \
		$(BIN)/python -m uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'; \
	else \
		$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'; \
	fi
	@touch $@

hooks: setup
	$(BIN)/pre-commit install

demo: setup
	$(BIN)/python -m examples.nightly_flights.run_script

check: setup
	$(BIN)/python -m ruff check $(SOURCES)
	$(BIN)/python -m ruff format --check $(SOURCES)
	$(BIN)/python -m mypy $(SOURCES)
	$(BIN)/basedpyright
	$(BIN)/lint-imports

docs: setup
	$(BIN)/python -m docs.tools.error_reference
	$(BIN)/python -m docs.tools.module_table

format: setup
	$(BIN)/python -m ruff check --fix $(SOURCES)
	$(BIN)/python -m ruff format $(SOURCES)

# The whole suite runs in two processes; `tests/conftest.py` keeps together what shares servers.
# Data that earlier runs have left would count as well. A part of the suite may cover as little as it does.
test: setup
	@$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(or $(strip $(PYTEST_ARGS)),--numprocesses 2 --dist loadscope)
	@$(BIN)/python -m coverage combine --quiet $(if $(strip $(PYTEST_ARGS)),|| true)
	@$(BIN)/python -m coverage report $(if $(strip $(PYTEST_ARGS)),|| true,--fail-under=$(MIN_COVERAGE))

# One after another: the tests share an Airflow, and some stop a part of it; two of them are too much for two cores.
test-airflow: setup browser database
	$(BIN)/python -m pytest tests/airflow_jobs --timeout 600 $(PYTEST_ARGS)

# What the test of Airflow's pages looks at them with; without it that test is skipped.
browser:
	@command -v chromedriver >/dev/null || [ "$$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null || { \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; }

# What stores all that the Airflow of those tests knows; without it that is SQLite, with which its API may stand still.
database:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || [ "$$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null || { \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; }

test-versions: setup database
	$(BIN)/python -m tests.versions.matrix $(VERSIONS_ARGS)

chaos: setup
	$(BIN)/python -m pytest tests/chaos $(PYTEST_ARGS)

soak: setup
	$(BIN)/python -m tests.chaos.soak $(SOAK_ARGS)

bench: setup
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-full: setup
	$(BIN)/python -m benchmarks --full --docs docs $(BENCH_ARGS)

# Not after setup: that may fail exactly because the old pins no longer fit pyproject.toml.
constraints: | $(BIN)/python
	$(BIN)/python -m pip install -qq uv
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.10 \
		--no-header --no-annotate --no-emit-index-url $(UPGRADE) --extra dev --group setup --output-file constraints.txt pyproject.toml

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
