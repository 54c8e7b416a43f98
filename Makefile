# Every target installs what it needs: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# For one test only, beside the environment: its wheel fits another build of torch than the one installed here.
TORCHVISION := torchvision==0.28.0

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-gpu test-browser docs check format train-gpu bench bench-gpu score clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## create .venv with the pinned versions of constraints.txt

# Reinstalled only if pyproject.toml or constraints.txt has changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Expected Python 3.11 to 3.13, but $(PYTHON) is %d.%d. Choose another one: make PYTHON=python3.12 ..." % v)'
	@echo "Setting up .venv (a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps --target $(VENV)/torchvision $(TORCHVISION) \
		|| echo "Without torchvision, the test of SAM 3 against transformers is skipped"
	@touch $@

demo: setup  ## segment the scenes of examples/ with the bundled model; write overlays to out/
	@$(BIN)/python examples/segment_examples.py --out out

test: check  ## run linters, type checks and tests (under ten minutes on two cores)
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: setup  ## run the slow tests (minutes each)
	@$(BIN)/python -m pytest -m slow

test-gpu: setup  ## run the tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu

test-browser: setup  ## test the web page in headless Chromium (installs gradio and playwright; reports skipped tests)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,browser]'
	@$(BIN)/python -m pytest -m browser -rs

docs: setup  ## build the documentation in site/ (installs mkdocs-material)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

check: setup  ## run ruff, mypy and import-linter
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python tools/check_terms.py
	@report=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$report"; exit 1; }

format: setup  ## format the code and apply ruff's automatic fixes
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

train-gpu: setup  ## train the bundled model on a CUDA device, six million phrases, in runs/tiny_gpu (resumable; not run yet)
	@$(BIN)/refersam train experiments/bundled_checkpoint/gpu.yaml --out runs/tiny_gpu --resume

BENCH := $(BIN)/python benchmarks
TABLES := out/bench
EXPORTS := $(TABLES)/exports
bench: setup  ## run the benchmarks of docs/performance.md and serving.md, and update their tables
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[onnx,openvino,serve]'
	@$(BENCH)/engines.py --files $(EXPORTS) --phrases 5 --count 100 --table $(TABLES)/engines_bundled.md
	@$(BENCH)/engines.py --preset base --files $(EXPORTS) --phrases 5 --repeats 3 --table $(TABLES)/engines_base.md
	@$(BENCH)/contention.py --beside-training --table $(TABLES)/contention_bundled.md
	@$(BENCH)/contention.py --preset base --seconds 20 --table $(TABLES)/contention_base.md
	@$(BENCH)/steps.py --table $(TABLES)/steps.md
	@$(BENCH)/steps.py --phrases 5 --tokens 20 --table $(TABLES)/phrases.md
	@$(BENCH)/steps.py --memory 1024 --table $(TABLES)/memory.md
	@$(BENCH)/clicks.py --table $(TABLES)/clicks.md
	@$(BENCH)/training.py --steps 10 --table $(TABLES)/training.md
	@$(BENCH)/server.py --models model $(EXPORTS)/tiny/openvino $(EXPORTS)/tiny/openvino_int8 --table $(TABLES)/server.md
	@$(BENCH)/report.py $(TABLES) README.md docs/*.md

bench-gpu: setup  ## run the benchmarks on a CUDA device; write tables to out/bench-gpu
	@$(BENCH)/latency.py --presets tiny base huge --sizes 448 --device cuda --dtype bfloat16 --images 1 16 --phrases 1 5 --repeats 30 --table $(TABLES)-gpu/latency.md
	@$(BENCH)/latency.py --presets base --sizes 448 --device cuda --dtype bfloat16 --compile --repeats 30 --table $(TABLES)-gpu/compiled.md
	@REFERSAM_TRITON=1 $(BENCH)/latency.py --presets base --sizes 448 --device cuda --dtype bfloat16 --images 1 16 --repeats 30 --table $(TABLES)-gpu/triton.md
	@$(BENCH)/steps.py --device cuda --repeats 30 --table $(TABLES)-gpu/steps.md
	@$(BENCH)/training.py --presets base --size 448 --images 8 --phrases 2 --precisions no bf16 fp16 --table $(TABLES)-gpu/training.md

SCORES := out/score
score: setup  ## score the bundled model (SceneRef, rephrasings, another renderer, attributes), and update the tables of the docs
	@$(BENCH)/accuracy.py --table $(SCORES)/scores.md
	@$(BENCH)/robustness.py --out $(SCORES)/robustness --table $(SCORES)/wordings.md
	@$(BENCH)/other_renderer.py --table $(SCORES)/other_renderer.md
	@$(BENCH)/attributes.py --table $(SCORES)/attributes.md
	@$(BENCH)/specks.py --table $(SCORES)/specks.md
	@$(BENCH)/report.py $(SCORES) README.md docs/models.md docs/concepts.md

clean:  ## remove .venv and caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
