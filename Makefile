# make install      the environment in .venv alone, which all but `make docs` set up where it is missing
# make quickstart   train, evaluate and draw a small FPT on the CPU, from nothing
# make demo         a page in the browser to play with the quickstart's model; its first run installs Gradio
# make web          install what that and its tests need, Chromium and its driver apart; without them the tests skip themselves
# make check        before a commit, in under 90 seconds: lint, types, the tests of the mathematics and a training of 3 iterations
# make test         before a release, and in CI: lint, types and all tests
# make abuse        minutes: kills trainings at random moments and fills the disk under them
# make lint         lint and types alone: ruff and mypy
# make docs         the documentation site, in output/site; needs neither torch nor Detectron2, and has an environment of its own
# make clean        remove what building and testing leave; keeps .venv, .venv-docs, datasets/ and output/
#
# Each sets up what it needs in .venv, once. PYTHON=python3.11 selects the interpreter of that environment; JOBS=4 runs the
# tests in so many processes (2), each of one thread. One file or test: .venv/bin/python -m pytest tests/core/test_drop_block.py

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# --no-compile: a third of the set-up's time, and most files are never imported.
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-compile --constraint requirements/constraints.txt
READY := $(VENV)/.ready
UNFINISHED := $(VENV)/.unfinished
DOCS := .venv-docs
QUICKSTART := configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml
OUTPUT := output/quickstart
DATA := $${DETECTRON2_DATASETS:-datasets}/fpt_shapes

# worksteal: each process goes through half of the files in order, sharing what they prepare, and helps the other at the end.
JOBS ?= 2
PYTEST := $(PY) -m pytest --numprocesses $(JOBS) --dist worksteal

.PHONY: install quickstart demo web check test abuse lint docs clean

install: $(READY)

quickstart: $(READY)
	@test -e $(DATA)/annotations/instances_val.json || $(PY) tools/generate_shapes.py
	@$(PY) train_net.py --config-file $(QUICKSTART) --resume OUTPUT_DIR $(OUTPUT)
	@$(PY) tools/visualize_predictions.py --config-file $(QUICKSTART) --output $(OUTPUT)/predictions.png --opts \
		MODEL.WEIGHTS $(OUTPUT)/model_final.pth
	@echo "Done. In $(OUTPUT): predictions.png, learning_curves.png, inference/ (COCO results), model_final.pth, log.txt"

demo: web
	@$(PY) tools/web_demo.py

web: $(READY)
	@$(PY) -c 'import gradio, selenium' 2>/dev/null || { \
		echo "Set-up: Gradio, for the page (150 MB)"; \
		$(PIP) --no-deps -r requirements/web.txt; }

# More threads than one only wait for each other when something else keeps a core busy.
check test abuse: export OMP_NUM_THREADS = 1
# Packages are installed without their .pyc files. Unless the first import writes them, each of the many processes that the
# tests start compiles torch anew: 10 seconds in place of 4.
check test abuse: export PYTHONDONTWRITEBYTECODE =
check: lint
	@$(PYTEST) tests/core tests/engine/test_three_iterations.py

test: lint
	@$(PYTEST)

abuse: $(READY)
	@$(PYTEST) tests/abuse -m abuse

lint: $(READY)
	@$(PY) -m ruff check .
	@$(PY) -m mypy

# A page, an anchor or a description that is missing ends it: a warning of MkDocs is an error.
docs: $(DOCS)/.ready
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict
	@echo "Done: output/site/index.html"

$(DOCS)/.ready: requirements/docs.txt requirements/constraints.txt
	@rm -rf $(DOCS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' && $(PYTHON) -m venv $(DOCS) || { \
		echo "error: '$(PYTHON)' is not Python 3.11 or newer; name one that is: make PYTHON=/path/to/python" >&2; \
		exit 1; }
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--constraint requirements/constraints.txt --constraint requirements/runtime.txt -r requirements/docs.txt
	@touch $@

clean:
	@rm -rf build dist *.egg-info standin/build standin/*.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find fpt_d2 demo tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that a stopped set-up left unfinished is made anew; one that was there before is kept, and so are the
# torch, torchvision and Detectron2 in it.
$(READY): $(wildcard requirements/*.txt standin/*.py standin/*.pth) setup.py
	@if [ -e $(UNFINISHED) ] || ! $(PY) -m pip --version >/dev/null 2>&1; then \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "error: '$(PYTHON)' is not Python 3.11 or newer; name one that is: make PYTHON=/path/to/python" >&2; \
			exit 1; }; \
		echo "Set-up, once: an environment in $(VENV)"; \
		rm -rf $(VENV) && mkdir $(VENV) && touch $(UNFINISHED) && $(PYTHON) -m venv $(VENV) || exit 1; \
	fi
	@$(PIP) -r requirements/build.txt
	@$(PY) -c 'import torch, torchvision' 2>/dev/null || { \
		echo "Set-up: torch and torchvision (6 GB, with the CUDA libraries that they come with)"; \
		$(PIP) -r requirements/torch.txt; }
	@echo "Set-up: what Detectron2 and the tests need"
	@$(PIP) -r requirements/runtime.txt -r requirements/dev.txt
	@$(PY) -c 'import triton' 2>/dev/null || $(PIP) --no-deps -r requirements/triton.txt
	@$(PY) -c 'import sys, importlib.util as u; d2 = u.find_spec("detectron2"); \
		sys.exit(d2 is None or type(d2.loader).__module__ == "detectron2_standin")' || { \
		echo "Set-up: no Detectron2 here, so its Python files out of LabGym"; \
		$(PIP) --no-deps --ignore-requires-python -r requirements/standin.txt && \
		$(PIP) --no-deps --no-build-isolation --force-reinstall ./standin; }
	@$(PIP) --no-deps --no-build-isolation --editable .
	@rm -f $(UNFINISHED) && touch $@
	@echo "Set-up: done"
