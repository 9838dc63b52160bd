# make reproduce | reproduce-all | test | lab | report | clean      (PROFILE=pocket unless told: smoke, pocket, grocery, paper)
PROFILE ?= pocket
JOBS ?= 1
# The MTIVE path, in the order in which data flows.
MTIVE_PATH ?= 01 02 04 05 06 07 20

BASE_PYTHON ?= $(shell command -v python3.11 || command -v python3)
PYTHON := .venv/bin/python
STAMP := .venv/.installed

.DELETE_ON_ERROR:
.PHONY: reproduce reproduce-all test lab report clean

reproduce: $(STAMP)
	$(PYTHON) -m mtive_nb run $(PROFILE) $(MTIVE_PATH) --jobs $(JOBS)
	$(PYTHON) -m mtive_nb report $(PROFILE)

reproduce-all: $(STAMP)
	$(PYTHON) -m mtive_nb run $(PROFILE) --jobs $(JOBS)
	$(PYTHON) -m mtive_nb report $(PROFILE)

# A process a core; a file's tests stay together, since they share what was slow to make.
test: $(STAMP)
	$(PYTHON) -m pytest --numprocesses logical --dist loadfile

lab: $(STAMP)
	$(PYTHON) -m jupyter lab --notebook-dir .

report: $(STAMP)
	$(PYTHON) -m mtive_nb report $(PROFILE)

# Results of one profile go; the environment and the committed reference results stay.
clean:
	@case "$(PROFILE)" in ""|*/*|.*|reference) echo "clean: PROFILE=$(PROFILE) is no profile" >&2; exit 1;; esac
	rm -rf "outputs/$(PROFILE)" .pytest_cache .ruff_cache
	find mtive_nb tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp is written last: an install that was cut short is taken up again.
$(STAMP): pyproject.toml constraints.txt .ci/torchvision_ops.py
	@test -n "$(BASE_PYTHON)" || { echo "no python3.11 found: install Python 3.11, or set BASE_PYTHON" >&2; exit 1; }
	@$(BASE_PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else f"Python {v} found, 3.11 needed: set BASE_PYTHON")'
	test -x $(PYTHON) || $(BASE_PYTHON) -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lab,quant,ocr,dev]'
	$(PYTHON) .ci/torchvision_ops.py
	touch $(STAMP)
