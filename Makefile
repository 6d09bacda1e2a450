# Everything runs in one .venv, made from constraints.txt where it is missing or stale.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.wassertight

export MPLBACKEND := Agg
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test test-all check docs format clean

demo: $(STAMP)
	$(BIN)/wassertight evaluate --run-dir runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m "not slow" --durations=10

test-all: $(STAMP)
	$(BIN)/python -m pytest -n 2 --durations=10

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: give PYTHON=python3.x (3.11 or newer)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	# torchattacks is for the parity tests; its metadata asks for torchvision, which it does not import.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt torchattacks
	touch $(STAMP)

clean:
	rm -rf $(VENV) runs site .mypy_cache .ruff_cache .hypothesis
