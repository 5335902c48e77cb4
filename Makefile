# Two commands matter to a newcomer: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STATE ?= state
DATA ?= data
AS_OF := 2014-01-01T05:00:00Z
USE_CASE ?= flights
RUN := $(BIN)/mlops-ray run $(USE_CASE) --state $(STATE) --data $(DATA)/flights --as-of $(AS_OF) --serve

# Where it is set, each process compiles and parses all of this package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-drift up install data test unit integration e2e lint docs bench chaos release-check clean

demo: data
	$(RUN)

up: data
	$(RUN) --stay

# After `make demo`: recorded December through the endpoint, then a clock that is hours off: an alarm, a retraining, and a
# challenger that waits for approval.
demo-drift: data
	$(BIN)/mlops-ray retraining rehearse flights --state $(STATE) --data $(DATA)/flights --from 2013-12-10 --to 2013-12-21 \
		--plant hour=1@2013-12-11

install: $(VENV)/installed

# torch's CPU build of exactly this version is enough; all is pinned, so pip resolves nothing.
$(VENV)/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

data: $(DATA)/flights/planes.csv

$(DATA)/flights/planes.csv: | install
	$(BIN)/python use_cases/flights_raw_data.py $(DATA)/flights

# Tests that start Ray run one after another and are half of the time; of all others, files that have room beside them.
PYTEST = $(BIN)/python -m pytest -n auto --no-loadscope-reorder --durations=25 -o faulthandler_timeout=960

test: install
	$(PYTEST) tests/e2e tests/integration tests/unit

unit integration e2e: install
	$(PYTEST) tests/$@

chaos: install
	$(BIN)/python -m pytest tests/chaos

# Each worker of mypy has three seconds to start, which a busy machine does not always give it.
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -n 2 || $(BIN)/mypy
	cd benchmarks && { ../$(BIN)/mypy -n 2 --config-file mypy.ini . || ../$(BIN)/mypy --config-file mypy.ini .; }

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: data
	command -v wrk >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends wrk >/dev/null; }
	$(BIN)/python benchmarks/run.py $(ONLY)

# Before a version is tagged: the wheel in empty environments, from a CSV to an answer. Minutes, and pip's network.
release-check: install
	$(BIN)/python -m tests.release_check

clean:
	rm -rf $(STATE) $(DATA) site .bench .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -exec rm -rf {} +
