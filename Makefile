# Two commands do all the set-up: `make demo` runs the main job, `make test` runs lint, types and tests.
# pip's own settings (index, find-links, cache) apply; PYTHON chooses the interpreter that .venv is made from.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: demo test lint clean

demo: $(STAMP)
	$(BIN)/fedfuse run

test: $(STAMP) lint
	$(BIN)/python -m pytest -n auto

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch comes first and alone: once any fitting torch is there (also one of your own, for an accelerator, in a .venv
# that you made), nothing replaces it by another build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "fedfuse needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import torch' 2>/dev/null \
		|| $(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	grep -v '^torch==' constraints.txt > .venv/constraints.txt
	$(BIN)/python -m pip install --quiet --constraint .venv/constraints.txt --editable '.[test]'
	touch $(STAMP)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
