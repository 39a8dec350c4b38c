# Saves typing; Snakemake itself is the interface. CORES and PYTHON can be set: make demo CORES=8 PYTHON=python3.12
PYTHON ?= python3
CORES ?= 2
GPUS ?= 1
CONFIG ?=
CONDA ?= conda
CUDA ?= 12.9
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.requirements
FILES := $(VENV)/share/mistral-common
SNAKEMAKE := $(BIN)/snakemake
ENVS := $(wildcard envs/*.yaml)

# Of the caller's shell: packages from elsewhere would be found before those of .venv, or installed beside it.
unexport PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX
export PYTHONNOUSERSITE := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo paper pin check test lint gpu pretrain lock freeze rulegraph config-pages clean

help:
	@echo "make demo    install into .venv, run the embedded preset, print where its report is"
	@echo "make paper   pin what is not pinned, then run the paper's experiment here (a cluster: docs/cluster.md)"
	@echo "make pin     ask the hub for the revisions that no preset names (CONFIG=my.yaml: of yours too)"
	@echo "make check   install into .venv, run lint and the unit tests that take no workflow and little time"
	@echo "make test    the same with every test"
	@echo "make clean   delete results, their records and the environment"
	@echo "make gpu     build Mamba's CUDA kernels into .venv (needs nvcc and a CUDA build of torch)"
	@echo "make pretrain  pretrain the embedded models and write their data, in place of those in workflow/resources/tiny"
	@echo "make lock    write the hashes of all pins, after a version has changed"
	@echo "make freeze  solve the conda environments of envs/ and write their *.linux-64.pin.txt"
	@echo "make config-pages  write docs/configuration.md and the config's JSON schema from the classes"
	@echo "make rulegraph   draw the README's graph of the rules (needs Graphviz)"

demo: $(STAMP)
	$(SNAKEMAKE) --cores $(CORES) --config preset=tiny
	@echo "Report: $(CURDIR)/results/tiny/report.html"

paper: pin
	$(SNAKEMAKE) --cores $(CORES) --resources gpu=$(GPUS) --config preset=paper
	@echo "Report: $(CURDIR)/results/paper/report.html"

pin: $(STAMP)
	$(BIN)/python workflow/scripts/pin_revisions.py $(CONFIG)

check: lint $(FILES)
	$(BIN)/pytest -q -n $(CORES) --dist loadfile -m "not slow" --cases 1 --ignore tests/workflow

test: lint $(FILES)
	$(SNAKEMAKE) --lint
	$(BIN)/pytest -q -n $(CORES) --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	PYTHONPATH=workflow/scripts $(BIN)/lint-imports --no-cache

# No cache: a wheel that lies there may have been built for another torch.
gpu: $(STAMP)
	@cuda=$$($(BIN)/python -c 'import torch; print(torch.version.cuda or "")'); \
	  test "$$cuda" || { echo "make gpu: torch in $(VENV) is built without CUDA; install a CUDA build of it first"; exit 1; }; \
	  nvcc=$$(nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p'); \
	  echo "make gpu: needs nvcc of CUDA $$cuda, as torch has it; on the PATH is nvcc $${nvcc:-none}"; \
	  test "$${nvcc%%.*}" = "$${cuda%%.*}" || { echo "make gpu: install the CUDA toolkit $$cuda, or put its nvcc on the PATH"; exit 1; }
	MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE PATH="$(CURDIR)/$(BIN):$$PATH" \
	  $(BIN)/pip install --no-cache-dir --require-hashes --no-deps --no-build-isolation -r requirements-gpu.txt

pretrain: $(STAMP)
	$(SNAKEMAKE) --cores 1 --force pretrain_tiny
	cp -r results/pretrain_tiny/tiny/. workflow/resources/tiny

# Mistral's tokenizer, for tests alone: where transformers does not find the package.
$(FILES): tests/files.txt $(STAMP)
	rm -rf $@
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target $@ -r tests/files.txt
	@touch $@

lock:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip compile --quiet --universal --no-deps --generate-hashes --no-annotate --no-emit-package torch \
	  --custom-compile-command "make lock" requirements-dev.txt --output-file requirements-lock.txt

freeze: $(ENVS:.yaml=.linux-64.pin.txt)

# Strict priority, as Snakemake asks for; with CUDA's version said, no GPU is needed here.
envs/%.linux-64.pin.txt: envs/%.yaml
	rm -rf .conda/$*
	CONDA_SUBDIR=linux-64 CONDA_OVERRIDE_CUDA=$(CUDA) CONDA_CHANNEL_PRIORITY=strict \
	  $(CONDA) env create --yes --no-default-packages --prefix .conda/$* --file $<
	$(CONDA) list --explicit --md5 --prefix .conda/$* > $@
	rm -rf .conda/$*

rulegraph: $(STAMP)
	PYTHONHASHSEED=0 $(SNAKEMAKE) --rulegraph dot --config preset=tiny > $(VENV)/rulegraph.dot
	dot -Tsvg -o report/rulegraph.svg $(VENV)/rulegraph.dot

config-pages: $(STAMP)
	$(BIN)/python workflow/scripts/write_config_pages.py

clean:
	rm -rf results .snakemake .conda $(VENV)

# Everything by its hash but torch, which the last line adds, and with a CUDA build of it CUDA's libraries.
$(STAMP): requirements.txt requirements-dev.txt requirements-lock.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-lock.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
