# Everything below runs from .venv, which `make setup` makes from the pinned requirements/.
PYTHON ?= python3
ARGS ?=
RUN := .venv/bin/python

# Only a PYTHON that someone chose counts against a .venv made with another one.
ifneq ($(origin PYTHON),file)
  CHOSEN := --chosen
endif

.PHONY: help setup quickstart test test-slow benchmark lint wheel clean

help:
	@echo "make setup       make .venv with all that is needed, once; PYTHON=python3.12 chooses the Python"
	@echo "make quickstart  train and test a small model on the CPU; ARGS=... are passed on"
	@echo "make test        run the tests and print the line coverage; ARGS='-k name' goes to pytest"
	@echo "make test-slow   run the slow tests, which the above leaves out"
	@echo "make benchmark   time fcos_d2 beside torchvision's and detectron2's FCOS; about 6 minutes"
	@echo "make lint        check style, formatting and types"
	@echo "make wheel       build dist/fcos_d2-*-py3-none-any.whl"
	@echo "make clean       remove build/, dist/ and caches, but not .venv"

setup:
	@sh tools/setup.sh $(CHOSEN) "$(PYTHON)"

quickstart: setup
	$(RUN) -m fcos_d2 quickstart $(ARGS)

# Two files at a time, each on one core; ARGS='-n 8' for more.
test: export OMP_NUM_THREADS = 1

test: setup
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov=fcos_d2 $(ARGS)

test-slow: setup
	$(RUN) -m pytest -m slow $(ARGS)

benchmark: setup
	$(RUN) -W ignore benchmarks/side_by_side.py $(ARGS)

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# build/ goes first and last: what an earlier build left there would travel in the wheel.
wheel: setup
	rm -rf build
	$(RUN) -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation -w dist .
	@rm -rf build
	@ls dist/*.whl

clean:
	rm -rf build dist *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache
	find fcos_d2 configs tests -name __pycache__ -type d -prune -exec rm -rf {} +
