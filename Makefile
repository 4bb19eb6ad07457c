# `make demo` restores the example archive, `make test` runs lint and the quick tests. Both make .venv once, from the
# exact versions in requirements/, and can be killed and run again at any moment.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO := out/demo
# Without a GPU: the index of PyTorch's CPU builds, as pytorch.org names it. What only a GPU needs is left out then.
CPU_INDEX ?= $(shell cat $(VENV)/cpu-index 2>/dev/null)
GPU_ONLY := ^(cuda|nvidia|triton)

IMAGE ?= driftrec:0.1.0

.PHONY: help demo test test-chaos lint docs bench image image-ray-up lock clean distclean

help:
	@echo "make demo         restore examples/archive through local Ray, write $(DEMO)/report.html"
	@echo "make test         lint and the quick tests"
	@echo "make test-chaos   the long tests: kills, faults, scale"
	@echo "make lint         ruff, pyright, import-linter"
	@echo "make docs         build the documentation into site/"
	@echo "make bench        the pipeline against a bare process pool"
	@echo "make image        build deploy/Dockerfile as IMAGE=$(IMAGE), with Docker; image-ray-up: that of cluster.yaml"
	@echo "make lock         write the versions in .venv to requirements/*.lock"
	@echo "make clean        remove outputs and caches; make distclean removes .venv too"

demo: $(VENV)/.runtime
	$(BIN)/driftrec restore examples/archive $(DEMO) --max-failed 2    # the archive holds two broken files on purpose
	@echo "See $(CURDIR)/$(DEMO)/report.html"

test: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not chaos"

test-chaos: $(VENV)/.test
	$(BIN)/pytest -m "slow or chaos"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "See $(CURDIR)/site/index.html; its search needs: $(BIN)/python -m http.server -d site"

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.throughput

image:
	docker build -f deploy/Dockerfile -t $(IMAGE) .

image-ray-up:
	docker build -f deploy/ray-up.Dockerfile -t $(IMAGE) .

# Stamps: written only after a whole install, so a killed one is taken up again.
$(VENV)/.runtime: requirements/runtime.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "DriftRec needs Python 3.11 or later; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	    || { echo "No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing into $(VENV): minutes, and $(if $(CPU_INDEX),some GB,7 GB) on disk, most of it PyTorch ..."
ifneq ($(CPU_INDEX),)
	@echo "$(CPU_INDEX)" > $(VENV)/cpu-index    # the next make has it, too
	$(BIN)/pip install --quiet --no-deps --index-url "$(CPU_INDEX)" $$(grep -E '^torch(vision)?==' requirements/runtime.lock)
endif
	$(BIN)/pip install --quiet -r <(grep -vE '$(if $(CPU_INDEX),$(GPU_ONLY),^$$)' requirements/runtime.lock)
	$(BIN)/pip install --quiet --no-build-isolation --no-deps -e .
	touch $@

$(VENV)/.test: $(VENV)/.runtime requirements/test.lock
	$(BIN)/pip install --quiet -r <(grep -v ^-r requirements/test.lock)
	touch $@

$(VENV)/.docs: $(VENV)/.runtime requirements/docs.lock
	$(BIN)/pip install --quiet -r <(grep -v ^-r requirements/docs.lock)
	touch $@

$(VENV)/.clouds: $(VENV)/.runtime requirements/clouds.lock
	$(BIN)/pip install --quiet -r <(grep -v ^-r requirements/clouds.lock)
	touch $@

lock: $(VENV)/.test $(VENV)/.docs $(VENV)/.clouds
	$(BIN)/python requirements/lock.py

clean:
	rm -rf out site build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
