# The two commands a reader needs are `make demo` and `make test`; each builds .venv first if it is missing.
# Both stand for plain pip commands: python3 -m venv .venv; .venv/bin/pip install -c constraints.txt -e . --group dev

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PY ?= python3
BIN := .venv/bin
RUNS ?= runs
# Arguments handed on, for example: make test ARGS="tests/core -x"
ARGS ?=
# The torch that `make lock` writes down: the newest one with a small CPU wheel everywhere we test.
TORCH ?= 2.13.0

# -qq hides pip's harmless "Location ... is ignored" warnings about local wheel folders; errors still show.
INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
WANTED = import sys; sys.exit(sys.version_info < (3, 11))

.PHONY: help demo test lint types bench proofs mutants lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@command -v $(PY) > /dev/null || { echo "sfumato needs Python 3.11 or newer, and '$(PY)' is not there: make PY=/path/to/python3.12"; exit 1; }
	@$(PY) -c '$(WANTED)' || { echo "sfumato needs Python 3.11 or newer; '$(PY)' is $$($(PY) -V 2>&1). Name a newer one: make PY=python3.12"; exit 1; }
	$(PY) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -U "pip>=25.1"  # the first with --group

.venv/.core: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing sfumato into .venv (about a minute, 1.1 GB, most of it torch)"
	@$(INSTALL) -e .
	@touch $@

.venv/.ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing sfumato and the developers' tools into .venv (about a minute, 1.8 GB, most of it torch)"
	@$(INSTALL) -e . --group dev
	@touch .venv/.core $@

demo: .venv/.core  ## train the digits recipe on embedded data, sample, draw figures (about 5 minutes on 2 cores)
	@set -euo pipefail; n=1; while [ -e "$(RUNS)/demo-$$n" ]; do n=$$((n + 1)); done; run="$(RUNS)/demo-$$n"; \
	set -x; \
	$(BIN)/sfumato train digits --runs "$(RUNS)" --name "demo-$$n" $(ARGS); \
	$(BIN)/sfumato sample "$$run" -n 100 --out "$$run/samples/demo"; \
	$(BIN)/sfumato figures grid "$$run" --out "$$run/figures/grid.png"; \
	$(BIN)/sfumato figures reverse "$$run" --out "$$run/figures/reverse.gif"; \
	$(BIN)/sfumato figures losses "$$run" --out "$$run/figures/losses.png"; \
	set +x; \
	printf '\n%s\n' "The run is $$run. Look at:"; ls -1 "$$run"/figures/*; echo "$$run/samples/demo/  (100 numbered PNGs)"

test: .venv/.ready  ## the quick tests, on two processes
	@$(BIN)/python -m pytest -q -n 2 $(ARGS)

lint: .venv/.ready  ## ruff
	@$(BIN)/ruff check --quiet .

types: .venv/.ready  ## mypy
	@$(BIN)/mypy --no-error-summary

bench: .venv/.ready  ## speed ratios against plain PyTorch and peers, each in the same run
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python "$$file" $(ARGS); done

proofs: .venv/.ready  ## the long numerical evidence, hours
	@$(BIN)/python -m pytest -q -m "proof or slow" --timeout 0 $(ARGS)

mutants: .venv/.ready  ## apply each seeded bug and see that a test fails
	@$(BIN)/python tests/mutants/run.py $(ARGS)

lock:  ## write constraints.txt from a clean, unconstrained upgrade
	@set -euo pipefail; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PY) -m venv "$$folder/venv"; \
	"$$folder/venv/bin/python" -m pip install -qq -U "pip>=25.1"; \
	"$$folder/venv/bin/python" -m pip install -qq -U "torch==$(TORCH)" -e . --group dev; \
	"$$folder/venv/bin/python" -m pip freeze --exclude-editable \
	  | sed 's/+cpu$$//' | { grep -Ev '^(nvidia-|cuda-|triton)' || true; } > "$$folder/constraints.txt"; \
	if grep -E '^torchvision|@|/' "$$folder/constraints.txt"; then echo "constraints.txt stays as it was: these lines may not stand in it"; exit 1; fi; \
	cp "$$folder/constraints.txt" constraints.txt; wc -l constraints.txt

clean:  ## remove the environment, builds and caches; runs stay
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
