# Each target makes the virtual environment it needs; the second time that is instant.
#
#   make demo          serve the bundled ALOHA policy, evaluate it over the network, print the table   (about 3 minutes)
#   make test          formatting, lint, types, layer rule, own tests                                   (minutes, no torch)
#   make test-interop  what others wrote: a JavaScript client, other Python versions                    (more minutes)
#   make check         formatting, lint, types, layer rule
#   make bench         round trip and batching benchmarks
#   make clean         remove the virtual environments and caches (not results/)
#
# PYTHON chooses the interpreter (3.10 or newer), VENV the place of the virtual environment.

PYTHON ?= python3
VENV ?= .venv
export PYTHON VENV

RUN := VIRTUAL_ENV="$(abspath $(VENV))"
MADE_FROM := pyproject.toml scripts/environment

.PHONY: help demo test test-interop check bench clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.made-for-demo
	@"$(VENV)/bin/actlink" demo

check: $(VENV)/.made-for-test
	@$(RUN) scripts/check

test: $(VENV)/.made-for-test
	@$(RUN) scripts/check
	@$(RUN) scripts/coverage
	@$(RUN) scripts/test

test-interop: $(VENV)/.made-for-test
	@$(RUN) scripts/test-interop

bench: $(VENV)/.made-for-test
	@$(RUN) scripts/bench

$(VENV)/.made-for-%: $(MADE_FROM)
	@scripts/environment "$(VENV)" $*

clean:
	rm -rf "$(VENV)" .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
