# Everything that a fresh machine needs is installed by these targets: Python 3.11+, Node 20+ and make are enough.
# `make` alone lists them.

PYTHON ?= python3
ARGS   ?=

VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(BIN)/uv
PIP    := $(BIN)/python -m pip --disable-pip-version-check
INTEROP := tests/interop
# The npm verifier is optional on a machine without Node; its test says so when it skips.
NODE   := $(shell command -v npm 2>/dev/null)
CODE   := src tests $(wildcard bench)
TYPED  := src $(wildcard bench)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help setup run test check fix audit lock wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.dev $(if $(NODE),$(INTEROP)/node_modules/.stamp) ## install everything that developing needs

# A venv that already has the development set also runs Gatepost: nothing is uninstalled again.
run: $(if $(wildcard $(VENV)/.dev),$(VENV)/.dev,$(VENV)/.run) ## start Gatepost with a demo to look at
	@$(BIN)/gatepost demo $(ARGS)

test: setup ## run every test (ARGS="-k retry" narrows it down)
	@$(BIN)/python -m pytest -n auto $(ARGS)

check: $(VENV)/.dev ## format, lint, types and import rules, changing nothing
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports

fix: $(VENV)/.dev ## format the code and repair what the linter can
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

# --strict: where the advisories cannot be reached nothing was audited, and that must not look like a pass.
audit: $(VENV)/.dev ## look for known vulnerabilities in what is pinned
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements/deploy.txt
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements/dev.txt

# dev first: the smaller sets are then resolved inside it, so that all of them agree on every version.
COMPILE = env -u UV_FIND_LINKS $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-header --no-emit-index-url --no-emit-find-links --annotation-style line
lock: $(VENV)/.uv ## renew requirements/*.txt and the npm lock from what they are made of
	$(COMPILE) pyproject.toml --all-extras --group dev --output-file requirements/dev.txt
	$(COMPILE) pyproject.toml --constraint requirements/dev.txt --output-file requirements/run.txt
	$(COMPILE) pyproject.toml --all-extras --constraint requirements/dev.txt --output-file requirements/deploy.txt
	$(COMPILE) --group build --constraint requirements/dev.txt --output-file requirements/build.txt
	$(COMPILE) --group installer --constraint requirements/dev.txt --output-file requirements/installer.txt
	$(if $(NODE),cd $(INTEROP) && rm -rf node_modules && npm install --package-lock-only --ignore-scripts)

wheel: $(VENV)/.dev ## build dist/gatepost-*.whl
	$(BIN)/hatchling build --target wheel --directory dist

clean: ## remove everything that these targets made
	rm -rf $(VENV) $(INTEROP)/node_modules build dist htmlcov .coverage .coverage.*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# ---- the environment: one stamp per step, so that a second start only compares times ---------------------------------

# uv installs in a second; pip does the same, slower, where uv has no build. Both refuse what has no matching hash.
# $(1): the requirement files that together are the environment; Gatepost itself is added editable.
define install
	@echo "Installing $(1) into $(VENV)"
	@$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes $(1) \
	  || $(PIP) install --quiet --require-hashes $(addprefix --requirement ,$(1))
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
endef

$(VENV)/.run: $(VENV)/.uv requirements/run.txt requirements/build.txt pyproject.toml
	$(call install,requirements/run.txt requirements/build.txt)
	@touch $@

$(VENV)/.dev: $(VENV)/.uv requirements/dev.txt pyproject.toml
	$(call install,requirements/dev.txt)
	@touch $@ $(VENV)/.run

$(VENV)/.uv: $(VENV)/.made requirements/installer.txt
	@$(PIP) install --quiet --require-hashes --only-binary :all: --requirement requirements/installer.txt \
	  || echo "No uv for this machine; pip will do."
	@touch $@

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null 2>&1 || \
	  { echo "Gatepost needs Python 3.11 or newer; '$(PYTHON)' was not found. Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Gatepost needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(INTEROP)/node_modules/.stamp: $(INTEROP)/package.json $(INTEROP)/package-lock.json $(INTEROP)/.npmrc
	@echo "Installing $(INTEROP)/package-lock.json"
	@cd $(INTEROP) && npm ci --ignore-scripts --silent
	@touch $@
