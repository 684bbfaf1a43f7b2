# One command each: set-up happens by itself, inside .venv, and nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Libraries that would write into the home folder write here instead; idle threads sleep; Flower phones nobody.
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/matplotlib
export FLWR_HOME := $(CURDIR)/$(VENV)/flwr
export OMP_WAIT_POLICY := PASSIVE
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir

.PHONY: install develop demo demo-network demo-omop test check bench docs

# What runs; tests, lint and oracles come with `make develop`, on which test, check and bench lean.
install: $(VENV)/.installed

develop: $(VENV)/.developed

$(VENV)/.installed: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing torch into $(VENV), some 750 MB; a minute or more"
	$(PIP) "torch>=2.11,<2.14"
	@echo "installing ecgfed and what else it needs, some 1.1 GB; a minute or more"
	$(PIP) --editable .
	touch $@

$(VENV)/.developed: $(VENV)/.installed
	@echo "installing what tests, lint and documentation need; a minute or more"
	$(PIP) --editable ".[dev,docs]"
	touch $@

demo: install
	$(BIN)/ecgfed simulate demo --out runs/demo --fresh

# The same over the real network stack; nginx is the proxy where it is installed (apt install nginx-light).
demo-network: install
	$(BIN)/ecgfed demo-network --out runs/demo-network --fresh

# From an empty PostgreSQL (apt install postgresql) to the first federated rounds, out of OMOP CDMs of made hospitals.
demo-omop: install
	@echo "installing DuckDB and the driver of PostgreSQL"
	$(PIP) --editable ".[sql]"
	rm -rf runs/omop
	PATH="$(CURDIR)/$(BIN):$$PATH" deploy/examples/omop/run.sh runs/omop

# On all cores, in an order drawn anew each time (its seed is printed); the share of branches that were taken, last.
test: develop
	$(BIN)/python -m pytest -n auto --cov --cov-report=
	@$(BIN)/python -m coverage report --format=total | sed 's/$$/% of lines and branches were run (processes that tests start are not counted)/'

check: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: develop
	$(BIN)/python -m pytest -m benchmark -s -q tests/benchmarks

# The documentation as a site, into site/; it is built without network.
docs: develop
	$(BIN)/mkdocs build --strict --quiet
