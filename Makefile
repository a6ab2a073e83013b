# Two commands do everything, set-up included: `make book` and `make test`. Only `make refresh` rewrites notebooks/.
# `make colab` runs the chapters as Colab would.
# PIP_ARGS hands options to pip; PYTHON chooses the interpreter that makes .venv, COLAB_PYTHON that of `make colab`.

PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
CHAPTERS := $(sort $(wildcard notebooks/*.ipynb))
EXECUTED := $(CHAPTERS:notebooks/%=_build/chapters/%)
# A chapter is executed again when it changed, or what it calls.
CODE := $(shell find sat2dem_core -name '*.py' -o -name '*.html') $(wildcard data/*.toml data/results/* data/rocky-mountain/* data/weights/*)
MODEL := _build/models/relief.onnx
COLAB := _build/colab
# Runs trained by one command are found by the other, and a fresh clone trains its own.
export SAT2DEM_CACHE ?= $(CURDIR)/_build/cache
export JUPYTER_PLATFORM_DIRS := 1

.PHONY: book test colab refresh address install clean
.NOTPARALLEL:        # two chapters at once would share the cores, and train the same runs twice
.DELETE_ON_ERROR:    # a chapter that was interrupted is executed again

book: $(EXECUTED) $(MODEL)
	$(BIN)/python tools/render.py _build/chapters _build/html
	mkdir -p _build/html/models && cp $(basename $(MODEL)).* _build/html/models
	@echo "The book: $(CURDIR)/_build/html/index.html"

_build/chapters/%.ipynb: notebooks/%.ipynb $(CODE) .venv/installed
	@mkdir -p $(@D)
	@echo "== $<"
	@$(BIN)/papermill --no-progress-bar --cwd $(@D) $< $@ 2>$(@D)/papermill.log || { tail -40 $(@D)/papermill.log; exit 1; }

# The shipped weights as ONNX, on the page and never in the wheel.
$(MODEL): $(CODE) .venv/installed
	$(BIN)/python -m sat2dem_core export relief $@ --overwrite

test: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest tests
	$(BIN)/python -m pytest --doctest-modules sat2dem_core
	$(BIN)/python -m pytest --nbval notebooks

# The chapters run from the wheel, because in Colab there is no clone, with the extra that their install cells name, on
# Colab's Python and versions; where this machine has no such Python, on those that Colab had on Python 3.11. Other
# packages come from constraints.txt (of a name in both files, the first line counts), so that a release of tomorrow
# cannot break a run of today. Under pyenv, python3.13 may be there and run only where its version is asked for.
WHERE = python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null
COLAB_PYTHON ?= $(or $(shell $(WHERE)),$(shell PYENV_VERSION=3.13 $(WHERE)),$(PYTHON))
COLAB_PINS = constraints-colab$(if $(findstring 3.13,$(shell $(COLAB_PYTHON) --version)),,-3.11).txt

colab: export SAT2DEM_CACHE = $(CURDIR)/$(COLAB)/cache
colab:
	@echo "The chapters run on $(shell $(COLAB_PYTHON) --version) and the versions of $(COLAB_PINS)"
	rm -rf $(COLAB)
	$(COLAB_PYTHON) -m venv $(COLAB)/venv
	$(COLAB)/venv/bin/python -m pip wheel $(PIP_ARGS) --quiet --no-deps --wheel-dir $(COLAB) .
	awk -F== '!seen[tolower($$1)]++' $(COLAB_PINS) constraints.txt >$(COLAB)/constraints.txt
	$(COLAB)/venv/bin/python -m pip install $(PIP_ARGS) --quiet --constraint $(COLAB)/constraints.txt \
		"$$(echo $(COLAB)/*.whl)[chapters]" papermill ipykernel
	$(COLAB)/venv/bin/python -m pip check
	$(COLAB)/venv/bin/python tools/colab.py $(COLAB_PINS) $(CHAPTERS)

refresh: install
	set -e; for chapter in $(CHAPTERS); do \
		echo "== $$chapter"; \
		$(BIN)/papermill --no-progress-bar --cwd notebooks $$chapter $$chapter; \
	done
	$(BIN)/python tools/tidy.py $(CHAPTERS)

address:
	$(PYTHON) tools/address.py

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_ARGS) --constraint constraints.txt --editable '.[catalogs,cluster,chapters,drainage,vectors,onnx,book,test,dev]'
	touch $@

clean:
	rm -rf .venv _build
