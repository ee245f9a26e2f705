# Each target is a thin wrapper; the work is done by `wherry` and by the scripts in deploy/.
# `make up` and `make test` need nothing but make itself on a fresh Debian or Ubuntu machine.

VENV := .venv
BIN := $(VENV)/bin
NODES ?= 2
REPLICAS ?= 1
TESTS ?= tests
# Two at a time: one drives real containers and mostly waits, one computes (tests/conftest.py says which is which).
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

.PHONY: help up down status install dev test test-full lint format proto bench clean images compose-up compose-down

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

up: install ## a cluster of two nodes on this machine, with a page to look at (NODES=n for more)
	@$(BIN)/wherry up --nodes $(NODES)

down: ## remove every trace of it
	@if [ -x $(BIN)/wherry ]; then $(BIN)/wherry down; else echo "nothing to do: there is no $(BIN)/wherry"; fi

status: ## what runs
	@$(BIN)/wherry status

images: install ## the image of the compose cluster, on the docker that answers (BASE=image to choose its base)
	@deploy/images

compose-up: images ## a control plane and three nodes, each a container (REPLICAS=3: three control planes on etcd)
	@REPLICAS=$(REPLICAS) deploy/compose-up

compose-down: ## remove it, volumes and all
	@deploy/compose-up down

install: ## a virtual environment with our package
	@deploy/bootstrap

dev: ## the same, with what tests and checks need
	@deploy/bootstrap --dev

test: dev ## every check that CI runs: format, lint, types, layers, tests
	@deploy/test-packages
	@$(MAKE) --no-print-directory lint
	@$(PYTEST) -m "not full" $(TESTS)

test-full: dev ## also what takes long: thousands of seeds, crash images, long faults
	@deploy/test-packages
	@$(MAKE) --no-print-directory lint
	@$(PYTEST) --timeout 3600 $(TESTS)

lint: dev ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: dev ## let ruff format and fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

proto: dev ## generate wherry.pb again after a change under proto/
	@$(BIN)/python hatch_build.py

bench: dev ## all benchmarks, one after the other
	@$(BIN)/python -m bench all

clean: ## remove what was generated
	rm -rf $(VENV) wherry/pb .pytest_cache .mypy_cache .ruff_cache .hypothesis
