# Everything a person runs; `make help` lists it.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
FAST   := not browser and not real_models and not oracle and not package

QUICK  := tests/merging/recipe tests/merging/methods/test_by_hand.py tests/merging/planning/test_planning.py

.PHONY: help demo smoke gpu test quick check run install docs bench nightly differential languages lock format clean browser dev

help:  ## this list
	@sed -nE 's/^([a-z]+):.*  ## (.*)/\1|\2/p' Makefile | awk -F'|' '{ printf "make %-14s %s\n", $$1, $$2 }'

demo: $(VENV)/installed-demo  ## the app with small real models on a Hub of its own; prints the address
	$(PY) -m examples.demo

test: dev browser  ## all tests, with a browser and the package index
	$(PY) -m pytest --numprocesses 2 --no-loadscope-reorder $(ARGS)

quick: dev  ## recipes, methods and plans, in half a minute
	$(PY) -m pytest -q -m "$(FAST)" $(QUICK) $(ARGS)

check: dev  ## format, lint, types, links, fast tests
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(PY) -m docs.links
	$(PY) -m pytest -m "$(FAST)" $(ARGS)

run: $(VENV)/installed  ## the app against the real Hub
	$(PY) app.py

install: $(VENV)/installed  ## what a Space has, and no more

docs: $(VENV)/installed  ## write the generated parts of the documentation
	$(PY) -m docs.generated

lock: dev  ## pin what a Space installs, with hashes, in requirements.lock
	$(VENV)/bin/uv pip compile --quiet requirements.txt --constraint constraints.txt --generate-hashes --no-annotate \
		--no-header --python-version 3.12 --python-platform x86_64-manylinux_2_28 --output-file requirements.lock

bench: dev  ## speed and memory beside mergekit, in one run
	$(PY) -m bench $(ARGS)

# The machine's own torch, which knows its GPU; the rest from a folder of wheels where there is no network.
gpu:  ## what a GPU is worth, in eight minutes: methods, chat, scores, searches
	$(if $(WHEELS),$(PYTHON) -m pip install --quiet --no-index --find-links $(WHEELS) --requirement requirements.txt)
	$(PYTHON) -m bench.gpu $(ARGS)

nightly: differential  ## what takes hours: several hundred generated recipes, every architecture of transformers
	$(PY) -m pytest -m nightly $(ARGS)

differential: dev  ## several hundred generated recipes beside mergekit
	$(PY) -m pytest tests/merging/test_differential.py --hypothesis-profile=nightly $(ARGS)

smoke: dev  ## two small merges on the real Hub, with your login; deletes what it made
	$(PY) -m examples.smoke $(ARGS)

languages: dev  ## how complete each language of the page is
	$(PY) -m ui.languages

format: dev  ## let ruff format and fix what it can
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:  ## remove what builds and tools left behind; the environment stays
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .gradio
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

dev: $(VENV)/installed-dev $(VENV)/installed-demo $(VENV)/installed-llama

# llama.cpp, for tests of GGUF files. Without npm they say that they were not run.
$(VENV)/installed-llama: | $(PY)
	@if command -v npm >/dev/null 2>&1; then \
		npm install --silent --no-save --ignore-scripts --prefix $(VENV)/llama @node-llama-cpp/linux-x64@3.22.1 \
			&& touch $@; \
	fi

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
