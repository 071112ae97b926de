# Everything here installs what it needs into .venv, pinned by hash. `make` alone lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two steps: what a run needs, and what a developer needs besides. Each stamp is named after the files it was made from,
# so another branch's dependencies are noticed and the same ones are not installed twice.
RUNTIME_LOCKS := requirements/runtime.txt requirements/build.txt
DEV_LOCKS := requirements/dev.txt
RUNTIME := $(VENV)/.runtime-$(shell cat $(RUNTIME_LOCKS) pyproject.toml 2>/dev/null | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.developer-$(shell cat $(RUNTIME_LOCKS) $(DEV_LOCKS) pyproject.toml 2>/dev/null | cksum | cut -d' ' -f1)
RIVALS := $(VENV)/.rivals-$(shell cat requirements/bench.txt 2>/dev/null | cksum | cut -d' ' -f1)
PYTEST := bash tools/in_memory.sh $(BIN)/python -m pytest
STEP := @bash tools/step.sh

# The packages come uncompiled. Python compiles what it imports, and keeps that even where the environment (of an image,
# say) forbids it: otherwise each process of the demo and of a test would compile a thousand files again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install setup demo run test check format bench diagram settings screenshots console migration lock image-check proof-check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(RUNTIME) ## install what a run needs: $(BIN)/rollcall and a Postgres
	@echo "$(BIN)/rollcall is ready"

setup: $(STAMP) ## install what a developer needs besides
	@echo "$(VENV) is ready"

$(RUNTIME):
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "making $(VENV) ..."; bash tools/make_venv.sh "$(PYTHON)" $(VENV); }
	@echo "installing what a run needs into $(VENV), a Postgres among it ..."
	@bash tools/install.sh $(VENV) $(RUNTIME_LOCKS)
	@rm -f $(VENV)/.runtime-*
	@touch $@

$(STAMP): $(RUNTIME)
	@echo "installing what a developer needs into $(VENV) ..."
	@bash tools/install.sh $(VENV) $(DEV_LOCKS)
	@rm -f $(VENV)/.developer-*
	@touch $@

$(RIVALS): $(STAMP)
	@echo "installing the packages that we compare ourselves with ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements/bench.txt
	@rm -f $(VENV)/.rivals-*
	@touch $@

demo: $(RUNTIME) ## create 60 VMs against a simulated provider, with faults, and compare the record with the truth
	@$(BIN)/rollcall demo $(ARGS)

run: $(RUNTIME) ## run the daemon, configured by the environment or .env
	@$(BIN)/rollcall serve

# Four processes of tests, each with a Postgres of its own, since acceptance tests mostly wait. They come first, so that
# what is long does not begin last.
test: check ## everything that CI runs
	$(STEP) -v "acceptance, integration, contract, browser" $(PYTEST) -q -rs -n 4 --durations 10 \
		tests/acceptance tests/integration tests/contract tests/browser

check: $(STAMP) ## format, lint, types, imports, generated pages, unit tests, migrations
	$(STEP) "format (mend: make format)" $(BIN)/ruff format --check --quiet .
	$(STEP) "lint" $(BIN)/ruff check --quiet .
	$(STEP) "types" $(BIN)/mypy --num-workers 2
	$(STEP) "import contracts" $(BIN)/lint-imports --no-logo
	$(STEP) "house rules" $(BIN)/python tools/house_rules.py
	$(STEP) "docs/lifecycle.md and docs/contract-states.md are current" $(BIN)/python tools/diagram.py --check
	$(STEP) "settings.md is current" $(BIN)/python tools/settings_reference.py --check
	$(STEP) "tables of results are current" $(BIN)/python bench/tables.py --check
	$(STEP) -v "unit, migrations" $(PYTEST) -q -n 2 --dist loadfile --durations 10 tests/migrations tests/unit

format: $(STAMP) ## format the code and mend what the linter can mend
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --quiet --fix .

bench: $(RIVALS) ## measure what the README claims about speed
	@$(BIN)/python bench/run.py $(ARGS)

diagram: $(STAMP) ## write docs/lifecycle.md and docs/contract-states.md from the tables in service/core/
	@$(BIN)/python tools/diagram.py

settings: $(STAMP) ## write docs/reference/settings.md from the settings
	@$(BIN)/python tools/settings_reference.py

screenshots: $(STAMP) ## take the pictures of the dashboard in docs/images, from a real run of the demo
	@$(BIN)/python tools/screenshots.py

console: $(STAMP) ## run the quickstart's commands and write what they print into the page
	@$(BIN)/python tools/docs_console.py

migration: $(STAMP) ## begin a new numbered migration: make migration NAME=what_changes
	@$(BIN)/python tools/new_migration.py "$(NAME)"

lock: $(STAMP) ## choose the newest versions that pyproject.toml allows, with hashes
	@$(BIN)/python tools/lock.py

image-check: ## build the image on a stand-in base and look inside; as root, with buildah and debootstrap
	@bash tools/prove_image.sh

proof-check: $(STAMP) ## have Go's reference implementation verify a proof; needs golang-go and golang-golang-x-mod-dev
	@bash tools/proof_check.sh

clean: ## remove what the targets above have made
	rm -rf $(VENV) .data build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
