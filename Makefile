# Every target works in a fresh clone with python3 (with venv), pip, make and a C compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
PIP := $(INSTALL) --constraint constraints.txt
# What the demo needs is installed apart: it is a third of the whole.
LAB := $(VENV)/.installed-lab
READY := $(VENV)/.installed
# torchvision's build for CUDA does not load beside torch's for the CPU: this folder keeps it from all but timm's tests.
TIMM := build/timm

.PHONY: help demo test check lint types bench properties docs dist sanitize install lock clean

help:
	@echo "make demo   install PyTorch and the lab, then compare eight activations on handwritten digits"
	@echo "make test   install the rest, then run the tests"
	@echo "make check  install, then lint, format check, types, import rules and the documentation site"
	@echo "make bench  install, then time the activations beside their rivals (about two minutes)"
	@echo "make properties  install, then prove again what docs/properties says (about a minute)"
	@echo "make docs   install, then build the documentation site into build/site"
	@echo "make dist   install, then build wheel and sdist, and run the tests against the installed wheel"
	@echo "make sanitize  build the C kernels with address and undefined-behaviour checks, and run them"

install: $(READY) $(TIMM)/.installed

# Not in isolation: the nodes of autograd are built for the PyTorch that is here.
$(LAB): pyproject.toml constraints.txt setup.py $(wildcard src/gem_activations/kernels/cpu/source/* src/gem_activations/torch/*.cpp)
	@echo "Installing PyTorch and the lab into $(VENV): a minute or more, 1.5 GB (on Linux several GB more for CUDA, which"
	@echo "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make $(or $(MAKECMDGOALS),demo) leaves out)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 "setuptools>=77"
	$(PIP) --no-build-isolation --editable ".[lab]"
	@touch $@

# Of the project, which is installed, only what this extra needs: the kernels are not built again, and the demo may run.
$(READY): $(LAB)
	$(PIP) --quiet "gem-activations[dev]"
	@touch $@

$(TIMM)/.installed: $(READY)
	@mkdir -p $(TIMM)
	$(INSTALL) --quiet --no-deps --upgrade --target $(TIMM) \
	  timm==1.0.31 torchvision==0.28.0 && touch $@ || echo "timm could not be fetched: the tests that need it will be skipped"

demo: $(LAB)
	@echo "Training 80 small networks, about a minute on two cores; what breaks off goes on with the same command"
	$(BIN)/gem-act compare digits --out runs/digits
	@echo "Open $(CURDIR)/runs/digits/report.html"

# One process a core, one thread each: tests that need threads ask for them.
test: $(READY) $(TIMM)/.installed
	GEM_ACTIVATIONS_TIMM=$(CURDIR)/$(TIMM) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile \
	  --no-loadscope-reorder --durations 30 --durations-min 3

# In parts, which `make -j4 check` runs side by side.
check: lint types docs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/basedpyright

bench: $(READY)
	$(BIN)/gem-act bench --short

properties: $(READY)
	$(BIN)/python -m gem_activations.analysis.pages docs/properties

docs: $(READY)
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/site

# The tests run from a folder without src/, on the wheel that was built from the sdist.
dist: $(READY) $(TIMM)/.installed
	GEM_ACTIVATIONS_TIMM=$(CURDIR)/$(TIMM) OMP_NUM_THREADS=1 $(BIN)/python tools/check_distribution.py dist

sanitize:
	@mkdir -p build
	$(CC) -std=c11 -O1 -g -fno-math-errno -fno-trapping-math -ffp-contract=off -fopenmp \
	  -fsanitize=address,undefined -fno-sanitize-recover=all \
	  src/gem_activations/kernels/cpu/source/*.c tests/kernels/sanitize.c -o build/sanitize -lm -ldl
	build/sanitize

lock: $(READY)
	@( head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/^torch==.*/torch==2.13.0/' ) > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build dist src/*.egg-info
