# Two commands: `make demo` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: help demo test lint format bench clean

help:
	@echo "make demo    examine, treat and examine again some ill networks (writes gradvitals-demo.html)"
	@echo "make test    the whole test suite"
	@echo "make lint    ruff, mypy --strict, import contracts"
	@echo "make bench   the benchmarks behind docs/benchmarks.md"

# The stamps say what is installed: for users, and on top of it for developers.
$(VENV)/.demo: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (PyTorch is large: this takes a few minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gradvitals needs Python >= 3.11; try: make PYTHON=python3.12 demo"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -U 'pip>=25.1'
	@$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@$(PIP) install -c constraints.txt --group dev
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/gradvitals demo

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread per worker: on two cores, threads of several workers only get into each other's way.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	@for file in benchmarks/*.py; do echo "== $$file"; OMP_NUM_THREADS=1 $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
