# Creates a virtual environment in .venv with the tested versions, and runs demo, tests, linters and docs in it.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
TESTS ?=
# Packages that a new environment installs in their newest version instead of the tested one.
UPGRADE ?=

.PHONY: demo test test-all gpu lint docs clean

demo: $(VENV)/.installed
	$(RUN) -m experiments.compare --config=configs/quickstart.py --workdir=runs/quickstart

test: $(VENV)/.installed
	$(RUN) -m pytest -n 2 --dist worksteal $(TESTS)

test-all: $(VENV)/.installed
	CHECK_SHAPES=1 XLA_FLAGS=--xla_backend_optimization_level=3 $(RUN) -m pytest -n 2 -m "slow or not slow" --hypothesis-profile=thorough

# Everything that needs a GPU, the most important first. The same command continues the runs of the paper's recipe.
GPU_MINUTES ?= 6
GPU_RUNS ?= $(RUN) -m experiments.reproduce length --scale=paper --seeds=1 --processes=4 --out=runs/gpu
gpu: $(VENV)/.installed
	-$(RUN) -m pytest -q -m gpu
	-$(RUN) -m benchmarks.run gpu --minutes=$(GPU_MINUTES)
	$(GPU_RUNS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell

docs: $(VENV)/.docs
	$(RUN) -m sphinx -q -W --keep-going docs docs/_build

$(VENV)/.docs: $(VENV)/.installed docs/requirements.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	touch $@

$(VENV)/.installed: requirements.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; use a newer one: make demo PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(if $(UPGRADE),$(VENV)/bin/pip install --quiet --disable-pip-version-check --upgrade $(UPGRADE))
	touch $@

clean:
	rm -rf $(VENV) runs docs/_build
