# Everything here installs what it needs into .venv, pinned by hash. `make` alone lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Named after what it was made from, so that another branch's dependencies are noticed, and the same ones are not.
STAMP := $(VENV)/.installed-$(shell cat requirements/*.txt pyproject.toml 2>/dev/null | cksum | cut -d' ' -f1)
RIVALS := $(VENV)/.rivals-$(shell cat requirements/bench.txt 2>/dev/null | cksum | cut -d' ' -f1)
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo run test check format bench diagram settings migration lock image-check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## install the pinned dependencies into .venv
	@echo "$(VENV) is ready"

$(STAMP):
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || bash tools/make_venv.sh "$(PYTHON)" $(VENV)
	@echo "installing the pinned dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@

$(RIVALS): $(STAMP)
	@echo "installing those that we measure ourselves against ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements/bench.txt
	@rm -f $(VENV)/.rivals-*
	@touch $@

demo: $(STAMP) ## create a fleet of 60 VMs against the simulator, with faults, and compare the record with the truth
	@$(BIN)/rollcall demo $(ARGS)

run: $(STAMP) ## run the daemon with what the environment or .env says
	@$(BIN)/rollcall serve

test: check ## everything that CI runs
	@$(PYTEST) tests/integration tests/contract tests/acceptance

check: $(STAMP) ## format, lint, types, import contracts, drawn pages, unit tests, migrations against tables
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@found=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$found"; exit 1; }
	@$(BIN)/python tools/house_rules.py
	@$(BIN)/python tools/diagram.py --check
	@$(BIN)/python tools/settings_reference.py --check
	@$(BIN)/python bench/tables.py --check
	@$(PYTEST) -q tests/unit tests/migrations

format: $(STAMP) ## format the code and mend what the linter can mend
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --quiet --fix .

bench: $(RIVALS) ## measure what the README claims about speed
	@$(BIN)/python bench/run.py $(ARGS)

diagram: $(STAMP) ## draw docs/lifecycle.md from the lifecycle's tables
	@$(BIN)/python tools/diagram.py

settings: $(STAMP) ## write docs/reference/settings.md from the settings
	@$(BIN)/python tools/settings_reference.py

migration: $(STAMP) ## begin a new numbered migration: make migration NAME=what_changes
	@$(BIN)/python tools/new_migration.py "$(NAME)"

lock: $(STAMP) ## choose the newest versions that pyproject.toml allows, with hashes
	@$(BIN)/python tools/lock.py

image-check: ## build the image on a stand-in base and look inside; as root, with buildah and debootstrap
	@bash tools/prove_image.sh

clean: ## remove what the targets above have made
	rm -rf $(VENV) .data build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
