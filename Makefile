# `make demo` and `make test` are the two commands; each does its own set-up.

# The environment we work in: the one that is activated, if it has DIALS (our package can be imported), else .venv.
# /usr holds the system's own Python, which pip must leave alone.
ACTIVE := $(shell python3 -c 'import dials_postrefine, sys; print(sys.prefix)' 2>/dev/null)
ENV := $(or $(filter-out /usr $(CURDIR)/.venv,$(ACTIVE)),.venv)
PYTHON := $(ENV)/bin/python3

# The stamp lies in the environment and names the checkout that is installed there, so that another environment, or
# another checkout, is set up anew.
STAMP := $(ENV)/dials_postrefine.stamp
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)

.PHONY: help demo env browser mpi test lint format clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: env  ## refine a simulated data set and compare with the truth; the files are left in demo/
	$(PYTHON) benchmarks/demo.py demo

env: $(STAMP)  ## the set-up alone; the programs are then in .venv/bin, or on PATH in an activated environment

test: env browser mpi  ## all tests
	$(PYTHON) -m pytest -ra -n auto --dist loadfile

# The report is looked at in a browser; where there is none to be had, that test says so and is skipped.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name && exit; done >/dev/null; \
	  { $(SUDO) apt-get update && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } || \
	  echo 'No browser can be installed here: the tests that open the report in one will be skipped.' >&2

# Some tests start the programs by mpirun; where there is none to be had they say so and are skipped.
mpi: env
	@{ $(PYTHON) -c 'import mpi4py' && command -v mpirun; } >/dev/null 2>&1 || \
	  { command -v apt-get && $(SUDO) apt-get update && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends openmpi-bin python3-mpi4py; } || \
	  echo 'No MPI can be installed here: the tests that start programs by mpirun will be skipped.' >&2

lint: env  ## check the style
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check

format: env  ## correct the style
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

clean:  ## remove what make made
	rm -rf .venv demo build dist *.egg-info

$(STAMP): setup.py pyproject.toml dials_postrefine/__init__.py | $(PYTHON)
	$(PYTHON) -m pip install --quiet --editable '.[dev]'
	@echo '$(CURDIR)' >$@

# Built from the system's Python by its full path: that is the one which Debian's DIALS belongs to, and another one
# may come first on PATH.  Recommended packages would be viewers and documentation.
.venv/bin/python3:
	@/usr/bin/python3 -c 'import dials_postrefine, ensurepip' 2>/dev/null || { \
	  command -v apt-get >/dev/null || { \
	    echo 'No DIALS found: activate an environment that has it (conda install -c conda-forge dials).' >&2; exit 1; }; \
	  $(SUDO) apt-get update && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends dials python3-venv; }
	/usr/bin/python3 -m venv --system-site-packages .venv
