# Each target does its own setup; a fresh machine needs only Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: coverage docs image install demo test test-fast test-long test-lowest test-cluster test-gpu test-crash test-obedience fuzz lint bench tiny clean chromium

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $@

# The main job on the prompts that ship with the project, and a contact sheet of the result. A picture that does not show
# what its prompt names is made again.
demo: $(INSTALLED)
	$(BIN)/sdbatch generate examples/demo.parquet demo-out --overwrite \
		--scorer obedience --keep "obedience >= 1" --attempts 4
	$(BIN)/sdbatch sheet demo-out demo-out/sheet.png
	$(BIN)/sdbatch gallery demo-out

# The test files are distributed over this many processes; each has its own Ray and object store.
JOBS ?= 2
# tests/conftest.py puts the files first that take longest, which pytest-xdist would undo.
# A failure is printed when it happens, so that an interrupted run has reported what it found.
PARALLEL := -n $(JOBS) --dist loadfile --no-loadscope-reorder --instafail

test: $(INSTALLED) chromium
	$(BIN)/pytest $(PARALLEL)

# For the inner loop: without Ray, object stores and browsers, and one failure is enough.
test-fast: $(INSTALLED)
	$(BIN)/pytest -q -x $(PARALLEL) -m "not slow and not long and not cluster and not gpu" --durations 10

# The complete grids of which `make test` runs a part: every sampler, family and stage.
test-long: $(INSTALLED)
	$(BIN)/pytest -m long

# The fast tests with the lowest supported versions of all dependencies, in their own environment.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/lowest_versions.py > .venv-lowest/constraints.txt
	grep ^torch== constraints.txt >> .venv-lowest/constraints.txt
	.venv-lowest/bin/pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[test]'
	.venv-lowest/bin/pytest $(PARALLEL) -m "not slow and not long and not cluster and not gpu"

# Several Ray nodes, autoscaling, ray job submit: minutes each.
test-cluster: $(INSTALLED)
	$(BIN)/pytest -m cluster tests/cluster

# On a machine with a CUDA device, in an environment whose torch can use it.
test-gpu: $(INSTALLED)
	$(BIN)/pytest -m gpu tests/gpu

# Five hundred pictures of combinations that the embedded model never saw.
test-obedience: $(INSTALLED)
	SDBATCH_OBEDIENCE=500 $(BIN)/pytest -m "long or not long" tests/tiny/test_obedience.py

# The gallery is tested in a real browser. This installs it on Debian; elsewhere install chromium and chromedriver.
chromium:
	@{ command -v chromium && command -v chromedriver; } >/dev/null || (apt-get update -q && apt-get install -qy chromium chromium-driver)

# The image that clusters pull; needs only docker. IMAGE_KIND= is for nodes without a GPU.
IMAGE := sdbatch:0.1.0
IMAGE_KIND := -gpu
image:
	docker build --build-arg KIND=$(IMAGE_KIND) --tag $(IMAGE) .

# Generated from the declarations of settings: tables of the docs, and the keywords of `sdbatch.generate`.
docs: $(INSTALLED)
	$(BIN)/python docs/generate.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: $(INSTALLED)
	$(BIN)/pytest -q $(PARALLEL) -m "not slow and not long and not cluster and not gpu" --cov sdbatch --cov-report term:skip-covered

bench: $(INSTALLED)
	$(BIN)/python benchmarks/mixed.py
	$(BIN)/python benchmarks/uniform.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/ray_recipe.py

# Trains the embedded model from scratch: an hour and a half on two cores. It can be killed; the same command resumes.
tiny: $(INSTALLED)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m training.tiny.train

clean:
	rm -rf $(VENV) .venv-lowest demo-out cluster-out

# Two thousand examples of each fuzz test, of which CI runs twenty: damaged tables, models, outputs, options.
fuzz: $(INSTALLED)
	SDBATCH_FUZZ=2000 $(BIN)/pytest $(PARALLEL) tests/fuzz

# Thirty rounds on each store; CI runs one.
test-crash: $(INSTALLED)
	CRASH_ROUNDS=30 $(BIN)/pytest -s tests/pipeline/test_crash.py
