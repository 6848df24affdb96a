# Everything runs in a virtual environment of its own: `make demo` and `make test` need nothing but Python 3.10 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup

.PHONY: setup demo test check format bench docs
.DEFAULT_GOAL := demo

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(SETUP)

demo: setup
	rm -rf runs/demo
	$(BIN)/chiasm train captioner --config examples/emoji.yaml --augment strong --minutes 6.5 --set train.batch_size=64 --out runs/demo

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

docs: setup
	$(BIN)/python docs/build.py
