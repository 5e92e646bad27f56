# Everything a developer runs. `make demo` and `make test` do their own set-up, system packages included
# where they run as root; what is there already is not touched again.

PYTHON ?= python3
# mkfs and losetup live where a user's PATH on Debian does not look.
export PATH := $(PATH):/usr/sbin:/sbin
# Where compiled modules are not kept, every start of a command and every test run compiles all of them again.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest
SIMULATE_SEEDS ?= 10000
SOAK_ROUNDS ?= 500

# What `make test ONLY=...` runs of the tests; without ONLY, everything.
MARKS_unit := not e2e and not ceph and not sim and not slow
MARKS_e2e := e2e and not ceph
MARKS_ceph := ceph
MARKS_sim := sim
# The other folders hold none, and would only be imported. The third worker works while two wait for disks.
PYTEST_unit := --numprocesses 4 --ignore tests/e2e --ignore tests/sim
# First what only computes; then real processes and servers, who wait half of their time: what needs Ceph with
# one worker, every other module with any one (tests/sharing.py), in the order in which they were collected.
COMPUTED := --numprocesses 3 --ignore tests/e2e -m "not e2e and not ceph"
REAL := tests/e2e --numprocesses 3 --dist loadgroup --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-failover test docs lint soak simulate bench clean system-demo system-test system-bench

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make .venv with the locked dependencies and the two commands
	@deploy/libvirt.sh $(VENV)

$(VENV)/.dependencies: requirements.lock deploy/venv.sh
	deploy/venv.sh $(PYTHON) $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.dependencies pyproject.toml
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

system-demo:
	@deploy/system-packages.sh demo

system-test:
	@deploy/system-packages.sh demo test
	@$(PYTHON) tests/tiny_guest/make.py

demo: system-demo setup ## Protect a disk, kill the site, rehydrate it elsewhere, compare
	$(PY) -m deploy.demo

demo-failover: system-demo setup ## Protect a disk and a tree at site A, fail over to B, write there, fail back to A, compare each time
	$(PY) -m deploy.demo_failover

ifeq ($(ONLY),)
test: system-test setup ## Everything: format, lint, types, imports, tests (ONLY=unit|lint|e2e|ceph|sim for a part)
	@$(MAKE) --no-print-directory lint
	$(PYTEST) $(COMPUTED)
	$(PYTEST) $(REAL)
else ifeq ($(ONLY),lint)
test: lint
else ifneq ($(MARKS_$(ONLY)),)
test: $(if $(filter e2e ceph,$(ONLY)),system-test) setup
	$(PYTEST) $(PYTEST_$(ONLY)) -m "$(MARKS_$(ONLY))"
else
test:
	$(error ONLY=$(ONLY) is none of unit, lint, e2e, ceph, sim)
endif

docs: setup ## Write the generated parts of the documents anew
	$(PY) -m deploy.exit_codes

lint: setup ## Format, lint, types and the direction of imports
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

soak: system-test setup ## Kill the agent again and again (SOAK_ROUNDS=500)
	$(PYTEST) tests/e2e --rounds $(SOAK_ROUNDS) --timeout 0

simulate: setup ## Run the simulators over many seeds (SIMULATE_SEEDS=10000), all states of ownership and collection, all crash states of the journal
	$(PYTEST) tests/sim --seeds $(SIMULATE_SEEDS) --timeout 0 -q
	$(PYTEST) tests/model --deep --timeout 0 -q
	$(PYTEST) tests/unit/splitter/test_crashes.py tests/unit/splitter/test_crash_states.py --deep --timeout 0 -q --numprocesses 2

system-bench:
	@deploy/system-packages.sh demo test bench
	@$(PYTHON) tests/tiny_guest/make.py

bench: system-bench setup ## Measure against floors: table, build/bench.json (ONLY=capture|stream|restore|restic|lag|memory|ownership|collection|liveness|concurrency|rehearsal|trees|serve|qmp)
	$(PY) -m bench.run

clean: ## Remove what `make` made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
