# Everything a person runs: `make demo` to see it, `make test` to check it, `make run` against the real Hub.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
FAST   := not browser and not real_models and not oracle and not package

.PHONY: demo test install run check bench differential format browser dev

demo: $(VENV)/installed-demo  ## the app on a loopback Hub full of real models; prints the address
	$(PY) -m examples.demo

test: dev browser  ## everything, the browser tests included
	$(PY) -m pytest $(ARGS)

install: $(VENV)/installed  ## what a Space has, and no more

run: $(VENV)/installed  ## the app against the real Hub
	$(PY) app.py

check: dev  ## format, lint, types, fast tests
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(PY) -m pytest -m "$(FAST)" $(ARGS)

differential: dev  ## several hundred drawn recipes beside mergekit
	$(PY) -m pytest tests/test_differential.py --hypothesis-profile=nightly $(ARGS)

bench: dev  ## speed and memory beside mergekit, in one run
	$(PY) -m bench $(ARGS)

format: dev  ## let ruff format and mend what it can
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

dev: $(VENV)/installed-dev $(VENV)/installed-demo

# Chromium for the browser tests: Debian's where apt and root are at hand, else Playwright's own download.
browser: $(VENV)/installed-dev
	@command -v chromium >/dev/null 2>&1 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	else \
		$(PY) -m playwright install chromium; \
	fi

$(PY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Alloy needs Python 3.11 or newer.")'
	$(PYTHON) -m venv $(VENV)

# gradio and spaces stand in no requirements file: on a Space the platform brings them.
$(VENV)/installed: requirements.txt constraints.txt | $(PY)
	$(PIP) --requirement requirements.txt "gradio[mcp,oauth]" spaces
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(PIP) --requirement requirements-dev.txt
	@touch $@

$(VENV)/installed-demo: requirements-demo.txt $(VENV)/installed
	$(PIP) --no-deps --requirement requirements-demo.txt
	@touch $@
