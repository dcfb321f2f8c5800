# Everything runs in a virtual environment of its own, made on first use and again when the build's inputs change.
# Needs Python >= 3.11 (with venv) and make. A C compiler makes logstore fast; without one it runs in plain Python.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
# How many processes share the tests.
JOBS ?= 2
# Arguments handed on, as in: make test TEST_ARGS='-k offset_index'
TEST_ARGS ?=
FUZZ_ARGS ?=
BENCH_ARGS ?=
JUDGE_ARGS ?=
TORTURE_ARGS ?=
CONFORMANCE_ARGS ?=

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
KERNEL_SOURCES = pyproject.toml $(wildcard logstore/records/*.pyx logstore/records/*.pxd)
PYTHON_CODE = logstore cli tests benchmarks $(wildcard tools)
BENCHMARKS_JSON = build/benchmarks.json
export KAFKA_DIST ?= build/kafka

# The requirements of one extra of pyproject.toml: what `pip install .[extra]` would add, without building again.
extra = $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["$(1)"], sep="\n")' \
	> $(VENV)/$(1).txt && $(PIP) install -q -r $(VENV)/$(1).txt && touch $@

.DEFAULT_GOAL := help
.PHONY: help demo test check check-rest test-python lint types imports unused docs-commands bench bench-kafka kafka-judge fuzz torture conformance clean api

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' $(firstword $(MAKEFILE_LIST)) | while read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

# --- what runs from the environment ---

demo: $(VENV)/installed ## a queue in ten lines; dump, check, describe and compact what brokers wrote in fixtures/
	@$(BIN)/python tests/first_example.py
	@set -e; clean=fixtures/kafka-4.1.1/clean; \
	run() { printf '\n$$ %s\n' "$$*"; PATH="$(abspath $(BIN)):$$PATH" "$$@"; }; \
	run logstore describe $$clean/segments-0; \
	run logstore dump --limit 5 $$clean/segments-0; \
	run logstore dump --limit 3 --json $$clean/plain-0; \
	run logstore dump --limit 3 --batches $$clean/zstd-broker-0; \
	run logstore dump --limit 2 --json $$clean/__consumer_offsets-1; \
	run logstore dump --count --isolation read_committed $$clean/txn-0; \
	run logstore dump --limit 2 fixtures/kafka-2.8.2/clean/v0-lz4-0; \
	run logstore check $$clean; \
	run logstore check fixtures/kafka-4.1.1/killed; \
	run logstore describe $$clean; \
	copy=$$(mktemp -d)/basic-0; cp -r fixtures/compaction-4.1.1/0-before/data/basic-0 "$$copy"; chmod -R u+w "$$copy"; \
	run logstore describe "$$copy"; \
	run logstore compact -q "$$copy"; \
	run logstore describe "$$copy"; \
	rm -r "$$(dirname "$$copy")"

test: $(VENV)/test ## the tests, with the compiled kernel where there is one
	$(BIN)/python -m pytest -n $(JOBS) $(TEST_ARGS)

check: test check-rest ## the tests with both kernels, and everything else that can be checked

check-rest: test-python lint types imports unused docs-commands conformance

test-python: $(VENV)/test
	LOGSTORE_KERNEL=python $(BIN)/python -m pytest -n $(JOBS) $(TEST_ARGS)

lint: $(VENV)/check
	$(BIN)/ruff check $(PYTHON_CODE) fixtures/curate.py

types: $(VENV)/check
	$(BIN)/mypy

imports: $(VENV)/check
	$(BIN)/lint-imports

unused: $(VENV)/check
	$(BIN)/vulture $(PYTHON_CODE) --min-confidence 60 \
		--ignore-names 'test_*,bench_*,pytest_*,pytestmark' --ignore-decorators '@*.command*,@*.group*,@pytest.fixture*,@*.register*,@rule*,@invariant*'

docs-commands: $(VENV)/test
	$(BIN)/python tests/docs_commands.py
	$(BIN)/python tests/api_reference.py --check

api: $(VENV)/installed ## docs/api.md anew from the docstrings
	$(BIN)/python tests/api_reference.py

conformance: $(VENV)/test ## which behaviours of Kafka's own tests ours cover
	$(BIN)/python tests/conformance.py $(CONFORMANCE_ARGS)

fuzz: $(VENV)/test ## mutated files through all readers, and new examples for the tests that generate theirs
	$(BIN)/python tests/fuzz.py $(FUZZ_ARGS)
	LOGSTORE_NEW_EXAMPLES=1 $(BIN)/python -m pytest -n $(JOBS) tests/unit

torture: $(VENV)/test ## power cuts at every file operation, killed processes, long histories against the model
	$(BIN)/python tests/torture.py $(TORTURE_ARGS)
	LOGSTORE_MODEL_EXAMPLES=1000 $(BIN)/python -m pytest -q tests/unit/log/test_log_against_model.py

bench: $(VENV)/bench ## the benchmarks beside their peers, and the table of ratios
	@mkdir -p $(dir $(BENCHMARKS_JSON))
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-json=$(BENCHMARKS_JSON) $(BENCH_ARGS)
	$(BIN)/python benchmarks/ratios.py $(BENCHMARKS_JSON)

bench-kafka: $(VENV)/judge ## whole processes beside Kafka's own tool and its log cleaner (Java 17 and Maven)
	$(BIN)/python benchmarks/bench_kafka.py $(BENCH_ARGS)
	$(BIN)/python benchmarks/bench_kafka_cleaner.py

kafka-judge: $(VENV)/judge ## real brokers open what we wrote, and we what they left (Java 17 and Maven)
	test -d $(KAFKA_DIST)/4.1.1/libs || fixtures/make/get_kafka.sh 4.1.1 $(KAFKA_DIST)
	$(BIN)/python tests/kafka_judge.py $(JUDGE_ARGS)

clean: ## remove everything that make made
	rm -rf $(VENV) build *.egg-info .benchmarks .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	rm -f logstore/records/_kernel.c logstore/records/_kernel*.so
	find logstore cli tests benchmarks fixtures -name __pycache__ -exec rm -rf {} +

# --- the environment: one stamp for what is in it ---

$(VENV)/made:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 with venv found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/made $(KERNEL_SOURCES)
	$(PIP) install -q -e .
	@$(BIN)/python -m compileall -q logstore cli  # bytecode, also where PYTHONDONTWRITEBYTECODE is set
	@touch $@

$(VENV)/test $(VENV)/bench $(VENV)/check $(VENV)/judge: $(VENV)/installed

$(VENV)/test $(VENV)/check $(VENV)/judge:
	@echo "installing what '$(@F)' needs"; $(call extra,$(@F))

$(VENV)/bench: $(VENV)/test
	@echo "installing what '$(@F)' needs"; $(call extra,$(@F))
