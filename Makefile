# Everything here installs first what it needs: `make pipeline` and `make test` work as the very first command.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

# Without SRC the pipeline draws synthetic scans and uses those.
SRC ?=
OUT ?= shards
RUN ?= runs/first
MODEL ?= octnet-s
EPOCHS ?= 12
PATIENTS ?= 150
SEED ?= 0
BUILD_ARGS ?=
FIT_ARGS ?=
PHANTOMS := phantoms

.DEFAULT_GOAL := help
.PHONY: help install pipeline test lint format bench pictures clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'make pipeline SRC=/data/OCT2017 OUT=shards RUN=runs/first EPOCHS=20   on the real archive'

install: $(READY) ## make .venv with both packages and all they need (with uv where present)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, but $(PYTHON) is `$(PYTHON) -V 2>&1`; run 'make install PYTHON=python3.11'."; exit 1; }
	@echo "installing into $(VENV), once"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && uv pip install --quiet --python $(BIN)/python -e '.[dev]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	fi
	@touch $@

pipeline: $(READY) ## scans -> shards -> proof -> model -> judgement (synthetic scans unless SRC=DIR)
ifeq ($(strip $(SRC)),)
	@test -d $(PHANTOMS) || $(BIN)/octprep phantom $(PHANTOMS) --patients $(PATIENTS) --seed $(SEED)
	$(BIN)/octprep build --src $(PHANTOMS) --out $(OUT) --seed $(SEED) $(BUILD_ARGS)
else
	$(BIN)/octprep build --src "$(SRC)" --out $(OUT) --seed $(SEED) $(BUILD_ARGS)
endif
	$(BIN)/octprep verify $(OUT)
	@if test -e $(RUN)/config.json; then resume=--resume; fi; set -x; \
	  $(BIN)/octtrain fit $(OUT) --run $(RUN) --model $(MODEL) --epochs $(EPOCHS) --seed $(SEED) $(FIT_ARGS) $$resume
	$(BIN)/octtrain evaluate $(RUN)

test: $(READY) ## run all tests
	@$(BIN)/python -m pytest

lint: $(READY) ## check style, types and the direction of the imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) ## measure cleaning, crop and denoisers, preparation and reading against their rivals
	$(BIN)/python benchmarks/imaging_truth.py
	$(BIN)/python benchmarks/denoisers.py
	$(BIN)/python benchmarks/build_rate.py
	$(BIN)/python benchmarks/input_rate.py

pictures: $(READY) ## draw the pictures of README anew, from phantoms
	$(BIN)/python docs/pictures.py

clean: ## remove what the pipeline made, but neither .venv nor anything given as SRC
	rm -rf $(PHANTOMS) shards runs
