# Freshet: `make` lists what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help install run test soak faults check requirements

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED)  ## make .venv and install Freshet into it

$(INSTALLED): pyproject.toml infra/requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is too old: Freshet needs Python 3.11+ (make install PYTHON=python3.12)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "no venv; bring it with \`apt-get install python3-venv\`"; exit 1; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python --require-hashes -r infra/requirements-dev.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

run: install  ## run the demo (MINUTES=1 ends it after a minute, REPORT=FILE keeps its report)
	@$(BIN)/freshet demo $(if $(MINUTES),--minutes $(MINUTES)) $(if $(REPORT),--report $(REPORT))

test: install  ## run all tests, on a real Kafka and a real Redis (KAFKA=host:port names a broker)
	@infra/needs
	@$(BIN)/python -m pytest $(TESTS)

soak: install  ## run the workers on LOG=kuairand_events.parquet for MINUTES (60); is all flat? FAULTS=1
	@infra/soak --log $(or $(LOG),$(error give LOG=FILE, the Parquet file of KuaiRand's events)) \
	  --minutes $(or $(MINUTES),60) --out $(or $(OUT),soak.jsonl) $(if $(FAULTS),--faults)

faults: install  ## kill the learner ROUNDS (50) times at random over LOG=kuairand_events.parquet
	@PYTHONPATH=.:tests/oracles:tests/faults $(BIN)/python tests/faults/rounds.py \
	  --rounds $(or $(ROUNDS),50) $(if $(SEED),--seed $(SEED)) \
	  --log $(or $(LOG),$(firstword $(wildcard ../shared/data/kuairand_events.parquet)))

check: install  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

requirements:  ## pin the newest versions of what pyproject.toml names
	$(BIN)/python infra/pin
