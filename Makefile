# make demo    environment, then the main job; ends with the path of the report
# make test    environment, then all tests          make quick   without the slow ones
# make test-slurm   the rehearsal on a Slurm started on this machine; `make test` runs the short part of it
# make lint    ruff, snakefmt, snakemake --lint     make config  rewrite config.yaml's comments and the schema
# make bundle  all that an installation without a network needs, as one file in build/ (docs/environments.md)
# TORCH_SPEC picks another torch build:   make env TORCH_SPEC="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130"
SHELL := /bin/bash
PYTHON ?= python3
TORCH_SPEC ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CORES ?= all
TESTS := tests/unit tests/workflow tests/gpu
RUN := env PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: env demo test test-slurm test-bands quick lint config bundle clean

env: $(READY)

$(READY): pyproject.toml requirements.lock scripts/make_env.sh
	PYTHON="$(PYTHON)" TORCH_SPEC="$(TORCH_SPEC)" VENV="$(VENV)" \
	  WHEELS="$(WHEELS)" TOOLS="$(TOOLS)" bash scripts/make_env.sh
	@touch $(READY)

demo: $(READY)
	$(RUN) snakemake --cores $(CORES)
	@echo "Report: $(CURDIR)/results/demo/report.html"

# Three lanes side by side (scripts/run_tests.sh).
test: $(READY)
	@VENV="$(VENV)" bash scripts/make_slurm.sh
	@$(RUN) bash scripts/run_tests.sh

# Slurm is unpacked into the environment where that can be done; else its tests say why and skip.
test-slurm: $(READY)
	@VENV="$(VENV)" bash scripts/make_slurm.sh
	$(RUN) python -m pytest tests/slurm tests/unit/test_cluster.py

# Baselines and UniRep come out in their measured bands (minutes).
test-bands: $(READY)
	$(RUN) python -m pytest tests/unit -m bands

quick: $(READY)
	$(RUN) python -m pytest $(TESTS) -m "not slow and not bands"

lint: $(READY)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) snakefmt --check Snakefile rules
	$(RUN) snakemake --lint

config: $(READY)
	$(RUN) python scripts/write_config.py

# PYTHON_VERSION, PLATFORM, SEQKIT, STUDY: scripts/make_bundle.sh
bundle: $(READY)
	TORCH_SPEC="$(TORCH_SPEC)" VENV="$(VENV)" PYTHON_VERSION="$(PYTHON_VERSION)" PLATFORM="$(PLATFORM)" \
	  SEQKIT="$(SEQKIT)" STUDY="$(STUDY)" bash scripts/make_bundle.sh

clean:
	rm -rf $(VENV) .snakemake
