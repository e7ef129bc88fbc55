# `make train` and `make test` need Python >= 3.11 and nothing else; ARGS are handed on: make train ARGS="--training.epochs 2"
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test lint soak clean

train: $(VENV)/.installed
	$(BIN)/python train.py $(ARGS)

# Files side by side, one worker a core; a worker with its trainings may want 3 GiB. PARALLEL= runs all in one process.
PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not soak" $(PARALLEL) $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(VENV)/.installed
	$(BIN)/python -m pytest -m soak $(ARGS)

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(f"inpaint needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Say which to use: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
