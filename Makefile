# Every command below runs in .venv, whatever Python the caller has active.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: help setup reproduce test soak mutants check docs lock

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## make .venv from the lock file; does nothing when nothing changed
	@bash environment/setup.sh

reproduce: setup ## all of it: set up, run the pipeline, compare with the paper's table 4
	wrn-pipe repro
	wrn-pipe compare --paper-table 4

pytest = python -m pytest -q -rs -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 12

test: setup ## run the tests
	$(pytest) -m 'not soak'

soak: setup ## run the long tests that `make test` leaves out (SHORT=1: those that CI runs)
	$(pytest) -m 'soak$(if $(SHORT), and not endurance)'

mutants: setup ## put N drawn faults into the core, one at a time, and print those that no test notices (N=150 SEED=1)
	python benchmarks/mutants.py $(or $(N),150) $(or $(SEED),1) $(or $(FROM),0)

check: setup ## lint, formatting, types, the order of imports, and the runs in evidence/
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo --no-cache
	wrn-pipe evidence verify

uv_compile = uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header

docs: setup ## write the pages of docs/reference that are made from the code
	python -m pipeline.cli.reference

lock: setup ## resolve again what pyproject.toml asks for; keeps the pins that still fit (UPGRADE=1: the newest)
	$(uv_compile) $(if $(UPGRADE),--upgrade) --group tools --output-file environment/tools.lock
	$(uv_compile) $(if $(UPGRADE),--upgrade) --extra dev --constraint environment/tools.lock \
		--output-file environment/requirements.lock pyproject.toml
	@bash environment/setup.sh
