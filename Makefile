# Every target first completes the environment: minutes on a fresh machine, no time afterwards.
# VENV=PATH   another environment, existing (a venv or conda prefix keeps what it has) or to create
# PYTHON=PATH the Python that creates it
# ARGS="..."  arguments for the demo or for pytest

VENV ?= .venv
ARGS ?=

override VENV := $(patsubst ~/%,$(HOME)/%,$(VENV))
RUN := "$(VENV)/bin/python"
# a process per core, each with one thread: models this small do not fill two
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
# the first of the candidates that the set-up script can run on
BASE = $(shell for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3); do \
	if $$python -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; \
	then echo $$python; break; fi; done)

.PHONY: help install demo test test-slow docs lint format
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^# \([A-Z]*=\)/  \1/p' $(MAKEFILE_LIST)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## only complete the environment
	@$(or $(BASE),$(error Python 3.11 is needed: install it or pass PYTHON=its path)) \
		tools/setup_env.py "$(VENV)"

demo: install ## train and evaluate on a small task
	@$(RUN) -W ignore::FutureWarning demo/run.py $(ARGS)

test: install ## run the tests
	@$(PYTEST) $(ARGS)

test-slow: install ## run the slow tests
	@$(PYTEST) -m slow $(ARGS)

docs: install ## render docs/ and the API reference into output/docs
	@$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--requirement requirements/docs.txt
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet
	@echo "output/docs/index.html"

lint: install ## check style and format
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

format: install ## apply the format and the fixes that ruff knows
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .
