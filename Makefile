# make run          install if need be, then run all services; ARGS="--rate 500" adds flags
# make install      create .venv and install; done again only when pyproject.toml or constraints.txt changed
# make test         formatter check, linter, types, import contract, pytest; ARGS="-k supervisor" goes to pytest, ARGS="-n 0" uses one process
# make docs         write docs/reference.md anew from the settings, the routes and the commands
# make bench        the benchmarks; ARGS=--quick for a short run
# make compare      the same tasks done by others, each in an environment of its own, in one run
# make constraints  write constraints.txt anew, with the newest versions that pyproject.toml allows
# make clean        remove what make created; data/ stays
#
# PYTHON=/path/to/python3.12 chooses another Python than the python3 in PATH.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := python -m pip --disable-pip-version-check
# Without bytecode each start of a service would compile all that it imports, for a second: some shells ask for that.
unexport PYTHONDONTWRITEBYTECODE
# Bytecode is written when a module is first imported; compiling all that pip installs takes longer.
INSTALL := install --quiet --no-compile --constraint constraints.txt --editable

.PHONY: run install tools test docs bench compare constraints clean python

run: install
	@$(BIN)/correnteza run $(ARGS)

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory python
	@echo "correnteza: installing into $(VENV); this takes about a minute, once"
	@$(BIN)/$(PIP) $(INSTALL) ".[dashboard]"
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory python
	@echo "correnteza: installing with what the tests need into $(VENV); this takes about a minute, once"
	@$(BIN)/$(PIP) $(INSTALL) ".[test]"
	@touch $(VENV)/installed $@

# A Python that is new enough, and with it a virtual environment that has pip.
python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "error: $(PYTHON): no such command; install Python 3.11 or newer, or run: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) cannot create environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)

# The dashboard is tested in a real browser, and metrics with the real Prometheus. Whoever may install them without asking gets
# them, at the second try if need be; what could not be had is noted in build/missing, and the tests that need it are skipped
# with that reason.
tools:
	@mkdir -p build && : > build/missing
	@command -v chromium >/dev/null || $(call apt,chromium)
	@command -v promtool >/dev/null || $(call apt,prometheus)

apt = [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || { \
	echo "correnteza: installing $(1) for the tests"; \
	{ $(call apt_once,$(1)) || $(call apt_once,$(1)); } >build/apt.log 2>&1 || { \
		echo "$(1)" >> build/missing; \
		echo "correnteza: $(1) cannot be installed; the tests that need it are skipped; apt-get said:" >&2; tail -n 3 build/apt.log >&2; }; }
apt_once = { apt-get -qq update && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq install --yes --no-install-recommends $(1); }

test: $(VENV)/installed-test tools
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

docs: install
	@$(BIN)/python docs/build_reference.py

bench: install
	@$(BIN)/python bench/pipeline.py $(ARGS)
	@$(BIN)/python bench/predict.py $(ARGS)
	@$(BIN)/python bench/logs.py $(ARGS)
	@$(BIN)/python bench/delay.py $(ARGS)
	@$(BIN)/python bench/freshness.py $(ARGS)
	@$(BIN)/python bench/learning.py $(ARGS)
	@$(BIN)/python bench/metrics.py $(ARGS)
	@$(BIN)/python bench/dashboard.py $(ARGS)

compare: install
	@$(BIN)/python bench/compare/run.py $(ARGS)

constraints:
	@$(MAKE) --no-print-directory python VENV=build/constraints
	@build/constraints/bin/$(PIP) install --quiet ".[test]"
	@{ echo "# Exact versions of everything that pip installs here; written by: make constraints"; \
		build/constraints/bin/$(PIP) freeze --exclude correnteza; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt
	@rm -rf build/constraints

clean:
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
