# Everything here installs first what it needs: `make pipeline` and `make test` work as the very first command.

PYTHON ?= python3
VENV := .venv
ifeq ($(strip $(VENV)),)
override VENV := .venv
endif
# A space in VENV is quoted for the shell in BIN and ACTIVATE, and for make in READY.
BIN := $(if $(filter-out .venv,$(VENV)),"$(VENV)/bin",$(VENV)/bin)
empty :=
space := $(empty) $(empty)
ACTIVATE := . $(if $(findstring $(space),$(VENV)),'$(VENV)/bin/activate',$(VENV)/bin/activate)

# With an NVIDIA driver the packages that let TensorFlow use the GPU are installed too; GPU=0 omits them, GPU=1 forces them.
GPU ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo 1 || echo 0)
comma := ,
EXTRAS := dev$(if $(filter 1,$(GPU)),$(comma)gpu)
READY := $(subst $(space),\ ,$(VENV))/.installed$(if $(filter 1,$(GPU)),-gpu)

# Without SRC the pipeline draws synthetic scans and uses those; everything it makes then lies under pipeline/.
SRC ?=
ifeq ($(strip $(OUT)),)
override OUT := $(if $(strip $(SRC)),shards,pipeline/shards)
endif
ifeq ($(strip $(RUN)),)
override RUN := $(if $(strip $(SRC)),runs/first,pipeline/run)
endif
MODEL ?= octnet-s
EPOCHS ?= 10
# So many synthetic patients, with so many scans of each to train on at most: few of many teach more than many of few.
PATIENTS ?= 800
MAX_SCANS ?= 3
DIFFICULTY ?= default
SEED ?= 0
BUILD_ARGS ?=
FIT_ARGS ?=
# The recipes read these from the environment, so that a path may contain any character.
export SRC OUT RUN

.DEFAULT_GOAL := help
.PHONY: help install pipeline test test-fast lint format bench faults fuzz docs pictures weights clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'make pipeline SRC=/data/OCT2017 OUT=shards RUN=runs/first EPOCHS=20   on the real archive'
	@echo "$(ACTIVATE)   makes the commands octprep and octtrain available in this shell"

install: $(READY) ## make .venv with both packages and all they need (with uv where present; GPU=0: without GPU support)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, but $(PYTHON) is `$(PYTHON) -V 2>&1`; run 'make install PYTHON=python3.11'."; exit 1; }
	@echo "installing into $(VENV), once (extras: $(EXTRAS))"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) "$(VENV)" && uv pip install --quiet --python $(BIN)/python -e '.[$(EXTRAS)]'; \
	else \
	  $(PYTHON) -m venv "$(VENV)" && $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'; \
	fi
	@touch "$@"

pipeline: $(READY) ## scans -> shards -> verify -> model -> results (synthetic scans unless SRC=DIR)
ifeq ($(strip $(SRC)),)
	@mkdir -p pipeline; drawn='$(PATIENTS) patients, $(MAX_SCANS) scans of each at most, difficulty $(DIFFICULTY), seed $(SEED)'; \
	if test -d pipeline/scans && test "`cat pipeline/drawn.txt`" != "$$drawn"; then \
	  echo "pipeline/ holds scans of `cat pipeline/drawn.txt`, but $$drawn were asked for; run 'make clean' first."; exit 1; \
	fi; \
	echo "$$drawn" > pipeline/drawn.txt
	@test -d pipeline/scans || $(BIN)/octprep synthesize pipeline/scans --patients $(PATIENTS) --max-scans $(MAX_SCANS) \
	  --difficulty $(DIFFICULTY) --seed $(SEED)
	$(BIN)/octprep build --src pipeline/scans --out "$$OUT" --seed $(SEED) $(BUILD_ARGS)
else
	@for path in "$$OUT" "$$RUN"; do case "$$path/" in pipeline/* | ./pipeline/* | "$(CURDIR)"/pipeline/*) \
	  echo "$$path lies under pipeline/, which 'make clean' removes; give other folders as OUT and RUN."; exit 1;; esac; done
	$(BIN)/octprep build --src "$$SRC" --out "$$OUT" --seed $(SEED) $(BUILD_ARGS)
endif
	$(BIN)/octprep verify "$$OUT"
	@if test -e "$$RUN/config.json"; then resume=--resume; fi; set -x; \
	  $(BIN)/octtrain fit "$$OUT" --run "$$RUN" --model $(MODEL) --epochs $(EPOCHS) --seed $(SEED) $(FIT_ARGS) $$resume
	$(BIN)/octtrain calibrate "$$RUN"
	$(BIN)/octtrain evaluate "$$RUN"
	@echo
	@echo "Reports: $$OUT/report.html on the shards, $$RUN/report.html on the model. To use the commands yourself: $(ACTIVATE)"

test: $(READY) ## run all tests
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-fast: $(READY) ## run the quick tests alone, in about a minute
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m 'not slow'

lint: $(READY) ## check style, types and the direction of the imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) ## measure preprocessing against ground truth, denoisers, the rate of a build, and training against Keras
	$(BIN)/python benchmarks/preprocessing_truth.py
	$(BIN)/python benchmarks/denoisers.py
	$(BIN)/python benchmarks/build_rate.py
	$(BIN)/python benchmarks/training.py

faults: $(READY) ## kill 100 builds, damage 1,000 finished folders and read 4,000 odd image files: all must be mended or named
	$(BIN)/python tests/faults.py $(FAULTS)
	$(BIN)/python tests/image_faults.py

FUZZ := manifest images duplicates index shard record
fuzz: $(READY) ## give random bytes to all that reads a folder of shards, for SECONDS in all; a failure leaves a file crash-...
	@$(BIN)/python -c 'import atheris' 2>/dev/null || uv pip install --quiet --python $(BIN)/python 'atheris>=3.0' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet 'atheris>=3.0'
	@for target in $(FUZZ); do echo "$$target" && \
	  $(BIN)/python tests/fuzz/run.py $$target --seconds $$(($(or $(SECONDS),600) / $(words $(FUZZ)))) || exit 1; done

docs: $(READY) ## write docs/options.md from the settings
	$(BIN)/python docs/options.py

pictures: $(READY) ## draw the pictures of README from synthetic scans
	$(BIN)/python docs/pictures.py

# Everything is made under WEIGHTS, in folders named by what was drawn; FIT_ARGS are further options of the training.
WEIGHTS ?= build/weights
DRAW_ARGS ?= --max-scans 1 --class-mix CNV=1,DME=1,DRUSEN=1,NORMAL=1
weights: PATIENTS = 80000
weights: EPOCHS = 24
weights: DIFFICULTY = hard
DRAWN = $(WEIGHTS)/$(PATIENTS)-$(SEED)-$(DIFFICULTY)
weights: $(READY) ## train on synthetic scans alone, for the weights `synthetic` of the package (MODEL, EPOCHS, PATIENTS, SEED, DIFFICULTY)
	@mkdir -p "$(WEIGHTS)"
	@test -d "$(DRAWN)-scans" || \
	  $(BIN)/octprep synthesize "$(DRAWN)-scans" --patients $(PATIENTS) --seed $(SEED) --difficulty $(DIFFICULTY) $(DRAW_ARGS)
	$(BIN)/octprep build --src "$(DRAWN)-scans" --out "$(DRAWN)-shards" --seed $(SEED) $(BUILD_ARGS)
	@run="$(DRAWN)-$(MODEL)"; if test -e "$$run/config.json"; then resume=--resume; fi; set -x; \
	  $(BIN)/octtrain fit "$(DRAWN)-shards" --run "$$run" --model $(MODEL) --epochs $(EPOCHS) --seed $(SEED) $(FIT_ARGS) $$resume
	$(BIN)/octtrain evaluate "$(DRAWN)-$(MODEL)"
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m octtrain.runs.packing "$(DRAWN)-$(MODEL)" --made-by \
	  "$(strip make weights MODEL=$(MODEL) EPOCHS=$(EPOCHS) PATIENTS=$(PATIENTS) SEED=$(SEED) DIFFICULTY=$(DIFFICULTY) \
	  DRAW_ARGS='$(DRAW_ARGS)' \
	  $(if $(BUILD_ARGS),BUILD_ARGS='$(BUILD_ARGS)') $(if $(FIT_ARGS),FIT_ARGS='$(FIT_ARGS)'))"

clean: ## remove what `make pipeline` drew and built from synthetic scans, under pipeline/, and nothing else
	@test ! -e pipeline/drawn.txt || rm -rf pipeline/scans pipeline/shards pipeline/run pipeline/drawn.txt
	@rmdir pipeline 2>/dev/null || true
