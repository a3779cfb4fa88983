PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# pip is told not to compile what nobody imports; Python then must be free to keep what it compiles
export PYTHONDONTWRITEBYTECODE =

.PHONY: quickstart test test-slow clean

quickstart: $(VENV)/.runtime
	$(BIN)/python train.py +experiment=quickstart iteration=three_cycles

test: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright --pythonpath $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(VENV)/.dev # whole runs killed and resumed, notebooks, servers, every bundle in every split
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

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
