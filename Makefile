# Two commands: `make demo` and `make test`; `make examples` runs scripts written for the published package.
# Each builds .venv first if it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test examples torture lint clean

demo: $(READY)
	$(BIN)/geneformer demo -o demo_output --overwrite

examples: $(READY)
	$(BIN)/python examples/published/run_all.py example_output

# Every writing command broken off at every change it makes to the disk, then damaged files: about two hours.
torture: $(READY)
	$(BIN)/python tests/faults/torture.py
	$(BIN)/python tests/faults/fuzz.py

# Two workers, one thread each.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# pip before 25.1 knows no dependency groups.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[all]" --group dev
	touch $(READY)

clean:
	rm -rf $(VENV) demo_output example_output
