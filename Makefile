SHELL = /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
WHEEL_VENV = build/wheel-venv
# Made when the environment is complete, so that an interrupted set-up is done again
STAMP = $(VENV)/.complete
ENV ?= CartPole-v1
STEPS ?=
PYTEST = $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
LINT_PATHS = sb3_distrl tests scripts docs

.PHONY: help demo test test-slow test-all lint type format check docs wheel clean

help:
	@echo "make demo               train Rainbow on CartPole-v1 with sb3-distrl, evaluate, draw the learning curve"
	@echo "make demo ENV=PongNoFrameskip-v4   the same from pixels"
	@echo "make test               run the quick tests, within 6 minutes on two cores"
	@echo "make test-slow          run the other ones: torch.compile, ONNX, processes, long training"
	@echo "make test-all           run both, within 15 minutes"
	@echo "make lint type format check        ruff and import-linter, mypy, reformat, all checks without changing files"
	@echo "make docs               build the documentation into build/docs"
	@echo "make wheel              build the wheel, install it into an empty environment and train from it"

$(STAMP): pyproject.toml constraints-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints-dev.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python scripts/demo.py --env $(ENV) $(if $(STEPS),--steps $(STEPS))

test: $(STAMP)
	$(PYTEST) -m "not slow"
	@echo 'The tests marked "slow" have not run: "make test-slow" runs them, "make test-all" runs all tests.'

test-slow: $(STAMP)
	$(PYTEST) -m slow

test-all: $(STAMP)
	$(PYTEST)

lint: $(STAMP)
	$(BIN)/ruff check $(LINT_PATHS)
	$(BIN)/lint-imports --no-logo

type: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --select I --fix $(LINT_PATHS)
	$(BIN)/ruff format $(LINT_PATHS)

check: lint type
	$(BIN)/ruff format --check $(LINT_PATHS)

docs: $(STAMP)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs build/docs

wheel:
	bash scripts/check_wheel.sh $(PYTHON) $(WHEEL_VENV)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
