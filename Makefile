# Everything here installs what it needs into .venv, pinned by hash. `make` alone lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat requirements/*.txt pyproject.toml 2>/dev/null | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help setup demo run test check format bench diagram lock migration clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## install the pinned dependencies into .venv

$(STAMP): requirements/runtime.txt requirements/dev.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: $(STAMP) ## create a fleet of 60 VMs against the simulator, with faults, and compare the record with the truth
	@$(BIN)/rollcall demo $(ARGS)

run: $(STAMP) ## run the daemon with what the environment or .env says
	@$(BIN)/rollcall serve

test: check ## everything that CI runs
	@$(BIN)/python -m pytest tests/migrations tests/integration tests/contract tests/acceptance

check: $(STAMP) ## format, lint, types, import contracts, diagram, unit tests, migrations against tables
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-timing 2>/dev/null || $(BIN)/lint-imports
	@$(BIN)/python tools/house_rules.py
	@$(BIN)/python tools/diagram.py --check
	@$(BIN)/python -m pytest -q tests/unit
	@$(BIN)/python -m pytest -q tests/migrations

format: $(STAMP) ## format the code and mend what the linter can mend
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --quiet --fix .

bench: $(STAMP) ## measure what the README claims about speed
	@$(BIN)/python bench/run.py $(ARGS)

diagram: $(STAMP) ## draw docs/lifecycle.md from the lifecycle's tables
	@$(BIN)/python tools/diagram.py

migration: $(STAMP) ## begin a new numbered migration: make migration NAME=what_changes
	@$(BIN)/python tools/new_migration.py "$(NAME)"

lock: $(STAMP) ## choose the newest versions that pyproject.toml allows, with hashes
	@$(PYTHON) tools/lock.py

clean: ## remove what the targets above have made
	rm -rf $(VENV) .data build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
