PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
CORPUS := runs/scenes
DEMO := runs/demo

.PHONY: help setup demo test unit chaos check lock clean
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Create .venv and install everything into it

$(VENV)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --quiet --progress-bar off -c requirements.lock -e '.[dev]'
	@touch $@

demo: setup ## Run the whole pipeline on generated pictures, into runs/demo
	$(RUN) -m jobs.generate_scenes --config jobs/configs/demo_scenes.yaml --out $(CORPUS)
	$(RUN) -m jobs.pipeline --config jobs/configs/demo.yaml --corpus $(CORPUS) --out $(DEMO)

test: setup ## Run every test that this machine can run, except those of make chaos
	$(RUN) -m pytest

unit: setup ## Run the tests that need no Ray (a minute)
	$(RUN) -m pytest -m "not cluster"

chaos: setup ## Run the long fault-injection tests (a quarter of an hour)
	$(RUN) -m pytest -m chaos -o log_cli=true -o log_cli_level=INFO

check: setup ## Lint, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

lock: setup ## Regenerate requirements.lock from what is installed
	$(RUN) -m pip freeze --exclude-editable > requirements.lock

clean: ## Remove what make demo made
	rm -rf $(CORPUS) $(DEMO)
