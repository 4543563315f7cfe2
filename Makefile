# Each target does its own set-up; a fresh machine needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-cluster test-gpu test-crash test-obedience lint bench tiny clean chromium

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $@

# The main job on the prompts that ship with the project, and a contact sheet of what it made.
demo: $(INSTALLED)
	$(BIN)/sdbatch generate examples/demo.parquet demo-out --overwrite
	$(BIN)/sdbatch sheet demo-out demo-out/sheet.png
	$(BIN)/sdbatch gallery demo-out

test: $(INSTALLED) chromium
	$(BIN)/pytest

# Several Ray nodes, autoscaling, ray job submit: minutes each.
test-cluster: $(INSTALLED)
	$(BIN)/pytest -m cluster tests/cluster

# On a machine with a CUDA device, in an environment whose torch can use it.
test-gpu: $(INSTALLED)
	$(BIN)/pytest -m gpu tests/gpu

# Five hundred pictures of combinations that the embedded model never saw.
test-obedience: $(INSTALLED)
	SDBATCH_OBEDIENCE=500 $(BIN)/pytest tests/tiny/test_obedience.py

# The gallery is tested in a real browser. On Debian this brings it; elsewhere bring chromium and chromedriver yourself.
chromium:
	@{ command -v chromium && command -v chromedriver; } >/dev/null || (apt-get update -q && apt-get install -qy chromium chromium-driver)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(INSTALLED)
	$(BIN)/python benchmarks/mixed.py
	$(BIN)/python benchmarks/uniform.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/ray_recipe.py

# The embedded model again, from nothing: an hour and a half on two cores. Kill it at any time, the same command goes on.
tiny: $(INSTALLED)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m sdbatch.tiny.train

clean:
	rm -rf $(VENV) demo-out cluster-out

# Thirty rounds on each store of what CI does three of.
test-crash: $(INSTALLED)
	CRASH_ROUNDS=30 $(BIN)/pytest -s tests/pipeline/test_crash.py
