# Targets: env, test, lint, types, demo, bench, bench-gpu, recompute, soak, tables, recipe, notebooks, clean. PYTHON is used once, to make .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ITD := $(BIN)/itd
STAMP := $(VENV)/.installed

DEMO_MODEL ?= resnet18
DEMO_LIMIT ?= 40
DEMO_ATTRS := stride dilation size
DEMO_RESULTS := $(DEMO_ATTRS:%=demo/$(DEMO_MODEL)-%.parquet)

BENCH_MODELS ?= resnet50 resnext50_32x4d mobilenet_v2 densenet121
BENCH_ATTRS ?= stride dilation size
BENCH_IMAGES ?= 4
# How many configurations the plain loop runs; 0 is all, so that nothing is extrapolated.
BENCH_PLAIN_CONFIGS ?= 0
BENCH_GPU_IMAGES ?= 256
GPU_REPORT ?= build/gpu.json

RECIPE_OPS ?= conv involution condconv weightnet se
RECIPE_DATA ?= cifar10
RECIPE_TEST ?= cifar10
RECIPE_ARGS ?= --epochs 30 --precision bf16 --workers 4

.DEFAULT_GOAL := test
.PHONY: env test lint types pytest demo bench bench-gpu recompute soak recipe tables notebooks clean

env: $(STAMP)

# Installed in place (editable), so only a change of pyproject.toml asks for another installation.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[dev]'
	touch $@

test: lint types pytest

# One process for each core, a file's tests in one of them, and one thread in each: threads of several would wait for each
# other.
pytest: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy has to find cli/ under the name that it is imported by.
types: env
	mkdir -p build/types
	ln -sfn ../../cli build/types/itd_cli
	$(BIN)/mypy

# Trains the network on the embedded digits (once, cached), sweeps, prints the tables, writes a figure and the report.
demo: env
	mkdir -p demo
	set -e; for attr in $(DEMO_ATTRS); do \
	  $(ITD) sweep --model $(DEMO_MODEL) --attr $$attr --data digits --limit $(DEMO_LIMIT) \
	    --out demo/$(DEMO_MODEL)-$$attr.parquet; \
	done
	$(ITD) oracle $(DEMO_RESULTS)
	$(ITD) greedy $(DEMO_RESULTS) --steps 5 --plot demo/greedy.png
	$(ITD) report $(DEMO_RESULTS) -o demo/report.html

bench: env
	set -e; for model in $(BENCH_MODELS); do for attr in $(BENCH_ATTRS); do \
	  $(BIN)/python benchmarks/sweep.py --model $$model --attr $$attr --images $(BENCH_IMAGES) \
	    --plain-configs $(BENCH_PLAIN_CONFIGS); \
	done; done

# What only a GPU can tell, into GPU_REPORT, part by part; then each sweep against the plain loop, and the learned layers.
bench-gpu: env
	$(BIN)/python benchmarks/gpu.py --out $(GPU_REPORT)
	set -e; for model in $(BENCH_MODELS); do for attr in $(BENCH_ATTRS); do \
	  $(BIN)/python benchmarks/sweep.py --model $$model --attr $$attr --images $(BENCH_GPU_IMAGES) --device cuda --precision bf16; \
	done; done
	$(ITD) compare-layers --device cuda --repeats 30

# The first unit of each stored ImageNet result, computed again and compared row by row; about half an hour on 2 cores.
RECOMPUTE_DATA ?= ../shared/data
recompute: env
	$(BIN)/python benchmarks/recompute.py results/*val1300*.parquet --data $(RECOMPUTE_DATA)/images/val1300 \
	  --weights $(RECOMPUTE_DATA)/weights

# The long form of the tests of faults: 300 flips of each kind of file, 100 kills of a sweep, fuzzing with SOAK times as many cases.
SOAK ?= 10
soak: env
	ITD_SOAK=$(SOAK) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults tests/store tests/runner/test_ray.py -q -s -p no:cacheprovider

# Every table of the documents, from results/ alone: docs/tables/*.md, and the documents that hold them.
tables: env
	$(BIN)/python benchmarks/tables.py

# CIFAR ResNet-18 with each operator, trained alike (OneCycle to 0.1, batches of 64), then side by side. Goes on where
# it was stopped.
recipe: env
	set -e; for op in $(RECIPE_OPS); do \
	  $(ITD) train --model cifar-resnet18 --op $$op --data $(RECIPE_DATA) --test $(RECIPE_TEST) $(RECIPE_ARGS); \
	done
	$(ITD) compare-layers --data $(RECIPE_TEST) --plot trained/comparison.png --curves trained/curves.png

# Executed on copies: the notebooks themselves stay without output.
notebooks: env
	mkdir -p build/notebooks
	set -e; for notebook in notebooks/*.ipynb; do \
	  $(BIN)/python -c "import sys, nbformat, nbclient; book = nbformat.read(sys.argv[1], 4); \
	nbclient.NotebookClient(book, resources={'metadata': {'path': 'notebooks'}}).execute(); \
	nbformat.write(book, sys.argv[2])" $$notebook build/notebooks/$$(basename $$notebook); \
	done

clean:
	rm -rf build demo dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
