# make demo | test | check | golden | bench: each builds the virtual environment by itself.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints/ci.txt
BIN := $(VENV)/bin
PAR ?= 2

# Tests run on several processes; more threads in each only make them wait for one another.
TEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(PAR) --dist worksteal

.PHONY: demo test check format golden bench clean

demo: $(VENV)/core
	@if [ -n "$(DATA)" ]; then $(BIN)/voxelsam demo "$(DATA)" -o demo; else $(BIN)/voxelsam demo -o demo; fi

test: $(VENV)/dev
	$(TEST)

golden: $(VENV)/dev
	$(if $(GOLDEN),VOXELSAM_GOLDEN="$(abspath $(GOLDEN))") $(TEST) tests/golden

# Half an hour on one core; BENCH="--long" for large backbones, BENCH="--only encoder" for a part.
bench: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py $(BENCH)

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src tests docs README.md CHANGELOG.md CONTRIBUTING.md

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/core: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "voxelsam needs Python 3.11 or newer; set PYTHON=python3.12, say")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/dev: $(VENV)/core
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev,parity]"
	@touch $@

clean:
	rm -rf $(VENV) demo
