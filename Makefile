# Two commands do everything, set-up included: `make book` and `make test`. Only `make refresh` rewrites notebooks/.
# `make colab` runs the chapters as Colab would.
# PIP_ARGS hands options to pip, PYTHON chooses the interpreter that makes .venv.

PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
CHAPTERS := $(sort $(wildcard notebooks/*.ipynb))
SOURCE := _build/source
COLAB := _build/colab
# Runs trained by one command are found by the other, and a fresh clone trains its own.
export SAT2DEM_CACHE ?= $(CURDIR)/_build/cache
export JUPYTER_PLATFORM_DIRS := 1

.PHONY: book test colab refresh address install clean

book: install
	rm -rf $(SOURCE) _build/html
	mkdir -p $(SOURCE)/notebooks
	cp _config.yml _toc.yml references.bib *.md $(SOURCE)/
	cp -r _static $(SOURCE)/
	set -e; for chapter in $(CHAPTERS); do \
		echo "== $$chapter"; \
		$(BIN)/papermill --no-progress-bar --cwd $(SOURCE)/notebooks $$chapter $(SOURCE)/$$chapter 2>$(SOURCE)/papermill.log \
			|| { tail -40 $(SOURCE)/papermill.log; exit 1; }; \
	done
	$(BIN)/jupyter-book build $(SOURCE) --path-output $(SOURCE) --warningiserror --keep-going --quiet
	mv $(SOURCE)/_build/html _build/html
	test -f _build/html/index.html
	@echo "The book: $(CURDIR)/_build/html/index.html"

test: install
	$(BIN)/python -m pytest tests
	$(BIN)/python -m pytest --nbval notebooks

# From the wheel, for in Colab there is no checkout, and without extras, for its install cell names none. What Colab does
# not pin, constraints.txt does (of a name in both, the first line counts): a release of tomorrow must not fail a run today.
colab: export SAT2DEM_CACHE = $(CURDIR)/$(COLAB)/cache
colab:
	rm -rf $(COLAB)
	$(PYTHON) -m venv $(COLAB)/venv
	$(COLAB)/venv/bin/python -m pip wheel $(PIP_ARGS) --quiet --no-deps --wheel-dir $(COLAB) .
	awk -F== '!seen[tolower($$1)]++' constraints-colab.txt constraints.txt >$(COLAB)/constraints.txt
	$(COLAB)/venv/bin/python -m pip install $(PIP_ARGS) --quiet --constraint $(COLAB)/constraints.txt $(COLAB)/*.whl
	$(COLAB)/venv/bin/python -m pip check
	$(COLAB)/venv/bin/python tools/colab.py constraints-colab.txt $(CHAPTERS)

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
	$(BIN)/python -m pip install $(PIP_ARGS) --constraint constraints.txt --editable '.[book,drainage,vectors,test]'
	touch $@

clean:
	rm -rf .venv _build
