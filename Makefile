# Two commands: make demo, make test. Both first make the virtual environment that they need.
VENV := .venv
PYTHON := $(VENV)/bin/python

.PHONY: demo test lint bench

demo: $(VENV)/installed
	$(PYTHON) lstm/demo.py

test: $(VENV)/installed
	$(PYTHON) -m pytest

lint: $(VENV)/installed
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check

bench: $(VENV)/installed
	$(PYTHON) benchmarks/lstm_step.py

$(VENV)/installed: requirements.txt pyproject.toml
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@
