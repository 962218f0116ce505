# The two set-up commands of the README; each makes its own virtual environment and installs the package as a user would.
PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv-test
OUT ?= results/equivariance
SEEDS ?= 5
# Test processes side by side
JOBS ?= 2

.PHONY: demo test lint benchmarks clean

# The shift-equivariance experiment on real images, with our own kernels: table, results.json, figures, report.html
demo: $(DEMO)/bin/python
	$(DEMO)/bin/pip install --quiet ".[experiments]"
	$(DEMO)/bin/fastconv equivariance --seeds $(SEEDS) --out $(OUT)

# Everything that CI checks
test: $(TEST)/bin/python
	$(TEST)/bin/pip install --quiet ".[dev]"
	$(MAKE) lint
	$(TEST)/bin/pytest tests -n $(JOBS)
	$(TEST)/bin/pytest benchmarks --benchmark-disable

lint: | $(TEST)/bin/ruff
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy

# A training epoch against PyTorch's, in turn
benchmarks: $(TEST)/bin/python
	$(TEST)/bin/pip install --quiet ".[dev]"
	$(TEST)/bin/python benchmarks/training_epoch.py

$(DEMO)/bin/python $(TEST)/bin/python:
	$(PYTHON) -m venv $(@D)/..

# For `make lint` in a fresh clone; `make test` has installed it before it comes here
$(TEST)/bin/ruff: | $(TEST)/bin/python
	$(TEST)/bin/pip install --quiet ".[dev]"

clean:
	rm -rf $(DEMO) $(TEST) build dist *.egg-info
