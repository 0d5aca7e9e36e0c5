# `make help` lists what there is. Everything is installed into .venv; nothing is changed outside of this folder.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Where Snowflake's clients find connections.toml, and which of its connections is used: the embedded server unless told otherwise.
export SNOWFLAKE_HOME ?= $(CURDIR)/.snowflake
export SNOWFLAKE_DEFAULT_CONNECTION_NAME ?= embedded
export DAGSTER_HOME ?= $(CURDIR)/.dagster
export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0
export TOKENIZERS_PARALLELISM ?= false
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo ui dashboard embedded stop test lint format typecheck audit week rounds month bench eval models clean browser postgres

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt requirements/hashed.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else "Python 3.11 or 3.12 is needed, this is %d.%d: make PYTHON=/path/to/python3.11 ..." % v)'
	@echo "installing into $(VENV), once: 2 to 5 minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip -c constraints.txt
	@echo "  1 of 2: packages that are pinned by hash"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/hashed.txt
	@echo "  2 of 2: everything else"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP) ## install everything into .venv
	@$(BIN)/python -m customer_insights.sample_data fetch .cache/sample_data >/dev/null

demo: setup ## run the whole pipeline on the embedded Snowflake and show what came out
	@$(BIN)/customer-insights demo

ui: setup ## open Dagster on the same data (http://127.0.0.1:3000)
	@$(BIN)/customer-insights ui

dashboard: setup ## open the dashboard on the same data (http://127.0.0.1:8501)
	@$(BIN)/customer-insights dashboard

embedded: setup ## run the embedded Snowflake alone, in the foreground
	@$(BIN)/python -m embedded_snowflake --data-dir $(SNOWFLAKE_HOME)/data

stop: ## stop the embedded Snowflake that demo, ui or dashboard started
	@test ! -x $(BIN)/customer-insights || $(BIN)/customer-insights stop

browser: ## install Chromium for the browser tests (Debian, Ubuntu)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  { if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk >/dev/null; \
	    else echo "Chromium is missing: install it (apt-get install chromium); the browser tests are skipped without it"; fi; }

postgres: ## install Postgres for the tests of a team's Dagster (Debian, Ubuntu)
	@command -v pg_ctl >/dev/null || ls /usr/lib/postgresql/*/bin/pg_ctl >/dev/null 2>&1 || \
	  { if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	      mkdir -p /etc/postgresql-common/createcluster.d && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/no-main.conf; \
	      apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql >/dev/null; \
	    else echo "Postgres is missing: install it (apt-get install postgresql); the tests of a team's Dagster are skipped without it"; fi; }

test: setup browser postgres lint typecheck ## run every test and check, but for `make week` (about 20 minutes)
	@$(BIN)/python -m pytest -n 2 --dist loadscope -m "not month"

week: setup ## play six days of operation at a simulated clock, and compare what comes of them (about 6 minutes)
	@$(BIN)/python -m pytest -m month

lint: setup ## ruff and the import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-cache

format: setup ## let ruff rewrite
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

typecheck: setup ## basedpyright
	@$(BIN)/basedpyright --level error

AUDIT := .cache/audit
audit: setup ## look for risky code, and for known vulnerabilities in what is installed
	@$(BIN)/ruff check .
	@$(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/audit.txt
	@$(AUDIT)/bin/python .ci/audit.py

ROUNDS ?= 200
SEED ?= 1
rounds: setup ## kill and retry the writing jobs at random, and count their rows (ROUNDS=200 SEED=1)
	@PYTHONPATH=tests $(BIN)/python -m rounds --rounds $(ROUNDS) --seed $(SEED)

month: setup ## play a month of operation at a simulated clock and write docs/simulated-month.md (about half an hour)
	@PYTHONPATH=tests $(BIN)/python -m month --days 30 --seed $(SEED) --page docs/simulated-month.md

bench: setup ## run the benchmarks
	@for b in benchmarks/*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

eval: setup ## measure every model on held-out data and write docs/model-quality.md (about 10 minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m training.model_quality

models: setup ## train the small models of the embedded default again
	@$(BIN)/python -m training.tune_e5
	@for encoder in use e5 use+e5 use+e5-tuned; do $(BIN)/python -m training.train_sentiment $$encoder || exit 1; done
	@$(BIN)/python -m training.train_quality_nli

clean: ## remove the environment and everything that the commands made
	@! pgrep -f "^$(CURDIR)/$(VENV)/bin/.*([d]agster dev|[s]treamlit run)" >/dev/null || \
	  { echo "Dagster or the dashboard still runs on what would be removed: end it with Ctrl-C first"; exit 1; }
	@$(MAKE) --no-print-directory stop
	@rm -rf $(VENV) .snowflake .cache build *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find .dagster -mindepth 1 ! -name dagster.yaml -delete
