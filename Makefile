# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORE ?= results
STAMP := $(VENV)/.installed

.PHONY: test-long demo example-report pictures test test-slow lint clean

demo: $(STAMP)
	$(BIN)/python -m harness run demo --store $(STORE)

example-report: demo
	$(BIN)/python -m harness report demo --store $(STORE) --out docs/example-report.html

# The three pictures of it in README and docs; needs Chromium and its driver.
pictures: example-report
	$(BIN)/python -m harness.bench.pictures docs/example-report.html docs

# Two processes of one thread each; a file stays in one of them, so that tests share what they start.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not long and not gpu"

# In a process of its own too: the tests start and kill Ray clusters in it, whose threads go on after the last of them,
# and once broke the process's exit when all had passed. A crash says where it was.
test-slow: $(STAMP)
	PYTHONFAULTHANDLER=1 $(BIN)/python -m pytest -n 1 -m "slow and not gpu"

# What takes longer still, or wants an idle machine (docs/reliability.md); not in CI.
test-long: $(STAMP)
	$(BIN)/python -m pytest -m "long and not gpu"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info
