# musicgen-lightning. `make help` lists every target.
SHELL := /bin/bash
EXTRAS ?= all
VENV ?= .venv
ifeq ($(EXTRAS),all)
extras := train,evaluation,serve,dev
else
extras := $(EXTRAS)
endif
ifeq ($(VENV),none)
PYTHON ?= python3
python := $(PYTHON)
else
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
python := $(VENV)/bin/python
endif
mgl := $(python) -m experiments
export PYTHONUNBUFFERED = 1

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# ---- set-up -------------------------------------------------------------------------------------------------------
ifeq ($(VENV),none)
stamp :=
.PHONY: setup
setup: ## Install everything into .venv (EXTRAS=train: the small training core; VENV=none: into the active environment)
	$(python) -m pip install --quiet -e '.[$(extras)]'
	$(python) -m pip install --quiet --no-deps tinysoundfont==0.3.7
else
stamp := $(VENV)/.installed
.PHONY: setup
setup: $(stamp) ## Install everything into .venv (EXTRAS=train: the small training core; VENV=none: into the active environment)

# tinysoundfont declares pyaudio, which only live playback imports and which does not build without PortAudio's headers.
$(stamp): setup.cfg constraints.txt
	@test -n "$(PYTHON)" || { echo "make setup: needs Python 3.11 or 3.12 on PATH (or PYTHON=/path/to/python3.11)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(python) -m pip install --quiet -c constraints.txt -e '.[$(extras)]'
	$(python) -m pip install --quiet --no-deps tinysoundfont==0.3.7
	@touch $@
endif
