# One command each: `make test`, `make demo`, `make bench`. Everything they need is set up by scripts/setup.
VENV := .venv
PYTHON := $(VENV)/bin/python

.PHONY: setup test test-long test-vm test-v2 check demo bench fuzz clean
setup: ; @scripts/setup
check: setup
	@$(VENV)/bin/ruff check src tests benchmarks docs && $(VENV)/bin/ruff format --check -q src tests benchmarks docs
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
test: ; @scripts/setup test; scripts/test
test-vm: ; @scripts/setup vm; scripts/test-vm
test-long: ; @scripts/setup test; $(PYTHON) -m pytest -q -m long tests
test-v2: setup ; @scripts/test-v2
demo: setup ; @scripts/demo
bench: setup ; @scripts/setup peers; $(PYTHON) benchmarks/bench.py
fuzz: setup ; @scripts/fuzz
clean: ; rm -rf build dist .cache src/hutch/executor/executor
