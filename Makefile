# Two commands do everything: `make demo` runs it, `make test` tests it.
PYTHON ?= python3
VENV   := .venv
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-wheel check bench soak lock clean

help:
	@echo "make demo    run everything on real input, with a page to look at (ARGS=\"--seconds 20\")"
	@echo "make test    the test suite                                     (ARGS=\"-k cursor\")"
	@echo "make check   format, lint, types, imports"
	@echo "make bench   a benchmark (ARGS=\"hot --repeat 5\"); bench/README.md"
	@echo "make soak    unruly viewers while brokers and edges die             (ARGS=\"--minutes 5\")"
	@echo "make setup   only the virtual environment $(VENV)"

setup: $(VENV)/installed

$(VENV)/installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python is missing: apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing: apt install python3-venv" >&2; exit 1; }
	@[ "$$(df -Pk . | awk 'NR==2 {print $$4}')" -gt 1000000 ] || { echo "Less than 1 GB is free here: make room first" >&2; exit 1; }
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@$(VENV)/bin/tailrace demo $(ARGS)

# In two processes, for a run on every change; ARGS="-n 0" takes one test after the other.
test: setup
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal $(ARGS)

# The same suite against the wheel that users install, in an environment without the sources.
test-wheel: setup
	@rm -rf dist $(VENV)-wheel
	@$(VENV)/bin/python -m hatchling build --target wheel --directory dist
	@$(PYTHON) -m venv $(VENV)-wheel
	@$(VENV)-wheel/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(VENV)-wheel/bin/python -m pip install --quiet --disable-pip-version-check --no-deps dist/*.whl
	@cd / && $(CURDIR)/$(VENV)-wheel/bin/python -c 'import tailrace.schemas as s; assert "site-packages" in s.__file__'
	@$(VENV)-wheel/bin/python -m pytest $(ARGS)

check: setup
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

bench: setup
	@$(VENV)/bin/python -m bench $(or $(ARGS),latency)

# Did a viewer lose, repeat or reorder anything? See tests/verifier/soak.py.
soak: setup
	@PYTHONPATH=tests $(VENV)/bin/python -m verifier.soak $(ARGS)

# After a change of the dependencies in pyproject.toml; needs uv.
lock:
	@uv pip compile pyproject.toml --all-extras --group dev --group bench --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock

clean:
	@rm -rf $(VENV) $(VENV)-wheel dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
