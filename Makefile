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

# ---- the job ------------------------------------------------------------------------------------------------------
.PHONY: demo
demo: $(stamp) ## The whole job on the embedded corpus: corpus, codec, tokens, two language models, report
	$(mgl) demo $(ARGS)

# DATA= (empty) is an error of the user's; no DATA at all asks for a rehearsal.
data := $(if $(filter undefined,$(origin DATA)),,--data='$(DATA)')
train = $(mgl) train --size $(1) $(data) $(if $(CODEC),--codec '$(CODEC)') $(if $(PATTERN),--pattern '$(PATTERN)') \
	$(if $(TEXT),--text '$(TEXT)') $(if $(MELODY),--melody true) $(if $(CLUSTER),--cluster '$(CLUSTER)') $(if $(NODES),--nodes $(NODES)) $(if $(SEED),--seed $(SEED)) \
	$(if $(RUN),--run '$(RUN)') $(if $(DRY),--dry true) $(if $(ARGS),--args='$(ARGS)')

.PHONY: train-small train-medium train-large
train-small: $(stamp) ## Train the 300M language model: DATA= CODEC= PATTERN= TEXT= MELODY=1 CLUSTER=slurm|torchrun|... NODES= SEED= RUN= DRY=1 ARGS=
	$(call train,small)

train-medium: $(stamp) ## Train the 1.5B language model, same variables
	$(call train,medium)

train-large: $(stamp) ## Train the 3.3B language model, same variables
	$(call train,large)

.PHONY: finetune
finetune: $(stamp) ## Train a model further on your music, whole or with adapters: MODEL= DATA= LORA=16 CLUSTER= NODES= SEED= RUN= DRY=1 ARGS=
	$(mgl) finetune --model '$(MODEL)' --data '$(DATA)' $(if $(LORA),--lora '$(LORA)') $(if $(CLUSTER),--cluster '$(CLUSTER)') \
		$(if $(NODES),--nodes $(NODES)) $(if $(SEED),--seed $(SEED)) $(if $(RUN),--run '$(RUN)') $(if $(DRY),--dry true) \
		$(if $(ARGS),--args='$(ARGS)')

.PHONY: train-codec
train-codec: $(stamp) ## Train a 32 kHz codec on a manifest: DATA= CODEC=encodec_32khz|mid|nano START= RUN= ARGS=
ifeq ($(origin DATA),undefined)
	@echo "REHEARSAL: no DATA was given: 200 steps on the demo's corpus; DATA= for yours"
	$(mgl) demo --until corpus
endif
	$(mgl) fit -c codec -c codec/$(or $(CODEC),encodec_32khz) $(if $(filter undefined,$(origin DATA)),-c rehearsal) \
		--data.init_args.manifest '$(if $(filter undefined,$(origin DATA)),runs/demo/corpus,$(DATA))' \
		$(if $(START),--model.init_args.start_from '$(START)') --run '$(or $(RUN),runs/codec)' $(ARGS)

.PHONY: resume
resume: $(stamp) ## Go on with the run that was interrupted last, or RUN=
	$(mgl) resume $(if $(RUN),--run '$(RUN)') $(if $(ARGS),--args='$(ARGS)')

.PHONY: manifest
manifest: $(stamp) ## Look through folders of music: DATA= OUT= ARGS="--captions my.csv"
	$(mgl) manifest $(DATA) --out '$(or $(OUT),data)' $(ARGS)

.PHONY: recordings
recordings: $(stamp) ## 16 hours of freely licensed music from Debian's packages, with a manifest: OUT= ARGS="--debs DIR"
	$(mgl) recordings --out '$(or $(OUT),data/recordings)' $(ARGS)

.PHONY: tokens
tokens: $(stamp) ## Encode a manifest: DATA= CODEC= OUT= ARGS="--devices 8"
	$(mgl) tokens --manifest '$(DATA)' --codec '$(CODEC)' --out '$(OUT)' $(ARGS)

.PHONY: generate
generate: $(stamp) ## Generate clips: MODEL= PROMPTS= OUT= ARGS=
	$(mgl) generate --model '$(MODEL)' --prompts '$(PROMPTS)' --out '$(OUT)' $(ARGS)

.PHONY: evaluate
evaluate: $(stamp) ## Score a folder of clips: GENERATED= REFERENCE= JUDGE= OUT=
	$(mgl) evaluate --generated '$(GENERATED)' --reference '$(REFERENCE)' --judge '$(JUDGE)' --out '$(or $(OUT),results.json)'

.PHONY: compare-sizes
compare-sizes: $(stamp) ## Sizes, or any systems, side by side: quality and cost. MODELS="small medium large" OUT= ARGS=
	$(mgl) compare-sizes $(or $(MODELS),small medium large) --out '$(or $(OUT),runs/compare-sizes)' $(ARGS)

.PHONY: ablations
ablations: $(stamp) ## The paper's tables in the small, a page for each: BUDGET=2h STUDIES=patterns,sizes SEEDS=3 ARGS="--docs docs/results"
	$(mgl) ablations --budget '$(or $(BUDGET),2h)' $(if $(STUDIES),--studies '[$(STUDIES)]') \
		$(if $(SEEDS),--seeds '$(SEEDS)') $(ARGS)

.PHONY: codec-card
codec-card: $(stamp) ## The embedded codec beside Opus and Vorbis: RECORDINGS= TWIN= OUT=
	$(mgl) codec-card --out '$(or $(OUT),runs/codec-card)' $(if $(RECORDINGS),--recordings '$(RECORDINGS)') \
		$(if $(TWIN),--twin '$(TWIN)')

.PHONY: weights
weights: $(stamp) ## Fetch the published networks that are used, once: ARGS="--only t5,demucs"
	$(mgl) weights $(ARGS)

.PHONY: verify-published
verify-published: $(stamp) ## A published checkpoint here and in transformers, side by side: MODEL=facebook/musicgen-small
	$(mgl) verify-published $(if $(MODEL),--model '$(MODEL)') $(ARGS)

.PHONY: bench
bench: $(stamp) ## Figures beside a peer's: WHAT="data" JSON=
	$(mgl) bench $(or $(WHAT),data) $(if $(JSON),--json '$(JSON)') $(ARGS)

# ---- checks -------------------------------------------------------------------------------------------------------
.PHONY: test
test: $(stamp) ## The tests; nothing is downloaded
	OMP_NUM_THREADS=1 $(python) -m pytest -n 2 -m 'not slow' $(ARGS)

.PHONY: test-all
test-all: $(stamp) ## The tests, slow ones too
	OMP_NUM_THREADS=1 $(python) -m pytest -n 2 $(ARGS)

.PHONY: lint
lint: $(stamp) ## ruff, mypy, codespell, and the import order of the four packages
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	$(python) -m codespell_lib .
	$(dir $(python))lint-imports

.PHONY: format
format: $(stamp) ## Format the code
	$(python) -m ruff check --fix .
	$(python) -m ruff format .
