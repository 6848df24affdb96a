# Everything runs in a virtual environment of its own: `make demo` and `make test` need nothing but Python 3.10 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)

# Modules are compiled when they are first imported, not all of those that are installed; so that has to be allowed.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test check format bench docs
.DEFAULT_GOAL := demo

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(SETUP)

demo: setup
	rm -rf runs/demo
	$(BIN)/chiasm train captioner --config examples/emoji.yaml --augment strong --preset tiny --minutes 6.5 --set train.batch_size=64 train.optimizer=muon --out runs/demo

# A test file stays with one process: its models are trained once. Files go in their order, since those of few tests are
# long and would otherwise come last, for one core. A process has one thread: all cores are busy as it is.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	for script in $(filter-out benchmarks/picture.py,$(wildcard benchmarks/[a-z]*.py)) benchmarks/picture.py; do \
		$(BIN)/python $$script || exit 1; done

docs: setup
	$(BIN)/python docs/build.py
