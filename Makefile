# make run    the main job on the images and weights that ship: an environment, the package, a table, and last its page
# make test   the same environment with the tools of a developer, and the tests
# make lint   format, lint and types
# make mutants   change the code in thousands of small ways, one at a time, and count those that no test notices; hours, and it
#                goes on where it was stopped; SAMPLE=30 SEED=1 tries 30 of each file, drawn at random
# make notebooks   run the notebooks again and keep their outputs
# make catalogue   what `tokenbench list` and reports know of methods, after a change of methods or backbones
# make docs   the site of the documentation, in build/site, without warnings or not at all
# make demo-weights   train the weights that ship again, from the raw data set; hours on a CPU, ARGS=--keep-start half an hour
# Other settings: make run ARGS="--backbone deit_s --methods evit" RESULTS=deit_s.jsonl REPORT=folder, make test ARGS="-k tome", make mutants ARGS="tokenbench.runs.row*",
# VENV=/path, PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SAMPLE ?=
SEED ?= 0
RESULTS ?= results.jsonl
REPORT ?= reports
BIN = $(VENV)/bin

.PHONY: run test lint mutants notebooks catalogue docs sample demo-weights clean

run: $(VENV)/installed
	$(BIN)/tokenbench run --output $(RESULTS) $(ARGS)
	@$(if $(findstring --backbone,$(ARGS)),,$(BIN)/tokenbench trace --limit 10 --similarity 100 --output $(REPORT)/maps > /dev/null)
	@$(BIN)/tokenbench report $(RESULTS) --output $(REPORT) > /dev/null
	@echo $(REPORT)/index.html

test: $(VENV)/developer
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/developer
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

mutants: $(VENV)/developer
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,mutants]"
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutants.py --try $(if $(SAMPLE),--sample $(SAMPLE) --seed $(SEED)) $(ARGS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed and $(PYTHON) is another; try make PYTHON=python3.12."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/developer: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@ $(VENV)/installed

notebooks: $(VENV)/developer
	$(BIN)/python scripts/notebooks.py $(ARGS)

catalogue: $(VENV)/installed
	$(BIN)/python scripts/catalogue.py

docs: $(VENV)/developer
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

sample:
	$(BIN)/python scripts/make_sample.py --data $(DATA) --output tokenbench/sample/fashion_mnist_test2000.npz

demo-weights: $(VENV)/installed
	$(BIN)/python scripts/demo_weights.py $(ARGS)

clean:
	rm -rf $(VENV) mutants build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
