PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# pip is told not to compile what nobody imports; Python then must be free to keep what it compiles
export PYTHONDONTWRITEBYTECODE =

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: quickstart test types quick test-slow clean

quickstart: $(VENV)/.runtime
	$(BIN)/python train.py +experiment=quickstart iteration=three_cycles

test: $(VENV)/.dev # pyright, which uses one core, beside the quick tests
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(MAKE) --no-print-directory -j 2 types quick

types: $(VENV)/.dev
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

quick: $(VENV)/.dev
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.dev # whole runs killed and resumed, notebooks, servers, every algorithm in every split
	$(PYTEST) -m slow

$(VENV)/.runtime: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -r requirements-dev.txt
	touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV) .cache runs
